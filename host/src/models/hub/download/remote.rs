//! What the hub says: which files a revision of a model has, and their bytes. The protocol is Hugging Face's; nothing here
//! knows where files are kept.

use crate::error::{Error, Result};
use hf_hub::{Cache, Repo, RepoType};
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};

/// How long the hub may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one answer may take to come. Then the rest is asked for, so that what stalls does not stall for ever.
const BODY_PATIENCE: Duration = Duration::from_secs(90);
/// The longest wait that a server's `Retry-After` is given.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository, with `/`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What names its contents: the SHA-256 of a large file, git's SHA-1 of a small one.
    pub etag: String,
    /// Whether `etag` is a SHA-256.
    pub large: bool,
}

/// What a revision has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit that the revision stands for.
    pub commit: String,
    /// Its files, by name.
    pub files: Vec<RemoteFile>,
}

/// Why a request brought nothing.
#[derive(Debug)]
pub enum Failure {
    /// It will not, however often it is tried.
    Final(Error),
    /// It may, after a while.
    Passing {
        /// What happened.
        reason: String,
        /// How long the server wants to be left alone.
        wait: Option<Duration>,
    },
    /// There was nobody to ask, for this reason.
    Unreachable(String),
}

/// A model on the hub, or on a server that behaves like it.
#[derive(Debug, Clone)]
pub struct Remote {
    endpoint: String,
    id: String,
    revision: String,
    token: Option<String>,
    agent: ureq::Agent,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Remote {
    /// The revision of the model `id` at `endpoint`, asked for with `token`, or with the one that Hugging Face's own tool keeps.
    pub fn new(endpoint: &str, id: &str, revision: &str, token: Option<String>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A link to the storage of large files carries its own permission; the token is the hub's alone.
            .redirect_auth_headers(ureq::config::RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_recv_body(Some(BODY_PATIENCE))
            .user_agent(format!("pajamas/{}", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            id: id.to_owned(),
            revision: revision.to_owned(),
            // By `HF_HOME`, wherever the cache itself is.
            token: token.or_else(|| Cache::from_env().token()),
            agent: agent.into(),
        }
    }

    /// The files of the revision.
    ///
    /// # Errors
    /// `Final` where there is no such model or revision, or it may not be read; `Passing`.
    pub fn listing(&self) -> Result<Listing, Failure> {
        let repo = Repo::with_revision(self.id.clone(), RepoType::Model, self.revision.clone());
        let url = format!("{}/api/{}?blobs=true", self.endpoint, repo.api_url());
        let mut response = self.get(&url, None)?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&response));
        }
        let info: Info = response.body_mut().read_json().map_err(|error| passing(&error))?;
        let broken = |what: &str| {
            Failure::Final(Error::Refused {
                message: format!("{} says of `{}` {what}", self.endpoint, self.id),
                hint: "look at HF_ENDPOINT: it must be a server that behaves like https://huggingface.co".into(),
            })
        };
        if !super::is_hexadecimal(&info.sha) {
            return Err(broken("that its commit is none"));
        }
        let mut files = Vec::new();
        for sibling in info.siblings {
            let (size, etag, large) = match (sibling.lfs, sibling.size, sibling.blob_id) {
                (Some(lfs), ..) => (lfs.size, lfs.sha256, true),
                (None, Some(size), Some(blob)) => (size, blob, false),
                _ => return Err(broken(&format!("no size of `{}`", sibling.rfilename))),
            };
            let safe = sibling.rfilename.split('/').all(super::super::is_path_part);
            if !super::is_hexadecimal(&etag) || (large && etag.len() != 64) {
                return Err(broken(&format!("no sum of `{}`", sibling.rfilename)));
            }
            // What leads out of the folder, or is hidden, is nothing of a model's.
            if safe {
                files.push(RemoteFile { name: sibling.rfilename, size, etag, large });
            }
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Listing { commit: info.sha, files })
    }

    /// The bytes of `file` of `commit`, from byte `from` on where the server can, so many of them or all to the end; and the
    /// byte that they begin with.
    ///
    /// # Errors
    /// As [`Remote::listing`].
    pub fn open(
        &self,
        commit: &str,
        file: &RemoteFile,
        from: u64,
        length: Option<u64>,
    ) -> Result<(u64, Box<dyn Read + Send>), Failure> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id, escaped(&file.name));
        let end = length.map_or(String::new(), |length| (from + length.max(1) - 1).to_string());
        let range = (from > 0 || length.is_some()).then(|| format!("bytes={from}-{end}"));
        let response = self.get(&url, range.as_deref())?;
        let begins = match response.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
                let first = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                first.filter(|&first| first == from).ok_or_else(|| Failure::Passing {
                    reason: format!("the server answered with another part than the one from byte {from}"),
                    wait: None,
                })?
            }
            _ => return Err(self.refusal(&response)),
        };
        Ok((begins, Box::new(response.into_body().into_reader())))
    }

    fn get(&self, url: &str, range: Option<&str>) -> Result<Response<ureq::Body>, Failure> {
        // Parts of a compressed body are no parts of the file.
        let mut request = self.agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header(header::RANGE, range);
        }
        request.call().map_err(|error| match error {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Io(_) => {
                Failure::Unreachable(error.to_string())
            }
            error => passing(&error),
        })
    }

    /// What a status that is no success means.
    fn refusal(&self, response: &Response<ureq::Body>) -> Failure {
        let value = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (status, code, id) = (response.status(), value("x-error-code"), &self.id);
        let page = format!("{}/{id}", self.endpoint);
        let not_found =
            |reason: String, hint: String| Failure::Final(Error::ModelNotFound { reference: id.clone(), reason, hint });
        let token = match &self.token {
            Some(_) => "the token in HF_TOKEN, or of `hf auth login`, must be one of an account that may read it",
            None => "set HF_TOKEN to a token of an account that may read it: https://huggingface.co/settings/tokens",
        };
        match status.as_u16() {
            401 | 403 if code == "GatedRepo" => Failure::Final(Error::Refused {
                message: format!("`{id}` is gated: its owner lets only those have it who have agreed to the terms"),
                hint: format!("agree to them at {page}; {token}"),
            }),
            401 | 403 => {
                not_found("the hub has no such model, or it is private".into(), format!("look at {page}; {token}"))
            }
            404 if code == "RevisionNotFound" => not_found(
                format!("it has no revision `{}`", self.revision),
                format!("its branches and tags are at {page}/tree/main"),
            ),
            404 => not_found("the hub has no such model".into(), format!("look at {page}; {token}")),
            408 | 425 | 429 | 500.. => Failure::Passing {
                reason: format!("the server answered {status}"),
                wait: value("retry-after").parse().ok().map(|seconds| Duration::from_secs(seconds).min(WAIT_MAX)),
            },
            _ => Failure::Final(Error::Refused {
                message: format!("{page}: the server answered {status}"),
                hint: "look at HF_ENDPOINT: it must be a server that behaves like https://huggingface.co".into(),
            }),
        }
    }
}

fn passing(error: &ureq::Error) -> Failure {
    Failure::Passing { reason: error.to_string(), wait: None }
}

/// `name` as part of an address.
fn escaped(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
        text
    })
}
