//! One context, many callers: what they want decoded at a time goes through the model in one batch (continuous batching).
//!
//! There is no thread for that. A caller takes a [`Seat`], which is a slot of the KV cache, and asks for one step after the
//! other; whoever finds the context free and everybody's wishes there decodes for all of them, and each samples its own row
//! on its own thread. A caller alone decodes for itself and waits for nobody.

use super::context::{Engine, Part, Rows};
use pajamas_plugin_api::{CancelToken, Error, Result};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting caller looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(20);
/// The longest that a batch waits for those who have not asked for their next step yet.
const PATIENCE_MAX: Duration = Duration::from_millis(20);

/// The context, and who is in it.
pub(crate) struct Batcher {
    state: Mutex<State>,
    changed: Condvar,
    /// Tokens that one batch takes.
    batch_tokens_max: usize,
}

struct State {
    /// None while somebody is in it.
    engine: Option<Engine>,
    /// Who has which slot.
    seats: Vec<Option<Taken>>,
    /// Who waits for a slot, first come first: a ticket, and the session.
    waiting: VecDeque<(u64, Option<u64>)>,
    next_ticket: u64,
    /// How many wait for the context as a whole.
    wanted_alone: usize,
    /// Steps that were asked for and are not under way, first come first.
    jobs: Vec<Job>,
    /// How long the last batch took.
    last_step: Duration,
    /// Counts how often the cache was forgotten. What somebody seated before that held is gone.
    epoch: u64,
}

/// A slot that has somebody.
#[derive(Default)]
struct Taken {
    /// They let a batch go by; none waits for them until they ask again.
    late: bool,
    /// What became of their last step, if they did not fetch it yet.
    done: Option<Result<Vec<f32>>>,
}

struct Job {
    slot: usize,
    tokens: Vec<u32>,
    rows: Rows,
    cancel: CancelToken,
    asked: Instant,
    /// Room for the row.
    row: Vec<f32>,
}

/// A slot of the KV cache, until dropped.
pub(crate) struct Seat<'a> {
    batcher: &'a Batcher,
    slot: usize,
    /// Tokens of the prompt that the slot held already.
    pub(crate) cached: usize,
    epoch: u64,
    row: Vec<f32>,
}

/// The context, until dropped.
pub(crate) struct Lease<'a> {
    batcher: &'a Batcher,
    engine: Option<Engine>,
    /// Who waits for what is done with it.
    slots: Vec<usize>,
}

impl Batcher {
    /// A batcher for `engine`, which has `slots` slots.
    pub(crate) fn new(engine: Engine, slots: usize) -> Self {
        let batch_tokens_max = engine.batch_tokens_max;
        let state = State {
            engine: Some(engine),
            seats: (0..slots.max(1)).map(|_| None).collect(),
            waiting: VecDeque::new(),
            next_ticket: 0,
            wanted_alone: 0,
            jobs: Vec::new(),
            last_step: Duration::ZERO,
            epoch: 0,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), batch_tokens_max }
    }

    /// Waits for the slot of `session`, or any; what it holds is then a prefix of `prompt`.
    ///
    /// # Errors
    /// `Cancelled`, at the latest 20 ms after `cancel` says so.
    pub(crate) fn seat(&self, session: Option<u64>, prompt: &[u32], cancel: &CancelToken) -> Result<Seat<'_>> {
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back((ticket, session));
        loop {
            if let Some((slot, cached)) = state.try_seat(ticket, session, prompt) {
                self.changed.notify_all();
                return Ok(Seat { batcher: self, slot, cached, epoch: state.epoch, row: Vec::new() });
            }
            let cancelled;
            (state, cancelled) = self.wait(state, CANCEL_POLL, cancel);
            if cancelled {
                state.waiting.retain(|(other, _)| *other != ticket);
                self.changed.notify_all();
                return Err(Error::cancelled());
            }
        }
    }

    /// Waits until the context is free, and keeps everybody else out of it.
    ///
    /// # Errors
    /// As [`Self::seat`].
    fn alone(&self, cancel: &CancelToken) -> Result<Lease<'_>> {
        let mut state = self.lock();
        state.wanted_alone += 1;
        loop {
            if let Some(engine) = state.engine.take() {
                state.wanted_alone -= 1;
                return Ok(Lease { batcher: self, engine: Some(engine), slots: Vec::new() });
            }
            let cancelled;
            (state, cancelled) = self.wait(state, CANCEL_POLL, cancel);
            if cancelled {
                state.wanted_alone -= 1;
                self.changed.notify_all();
                return Err(Error::cancelled());
            }
        }
    }

    /// Waits for a change, and tells whether the caller was cancelled meanwhile.
    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        time: Duration,
        cancel: &CancelToken,
    ) -> (MutexGuard<'a, State>, bool) {
        let state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        // The host's flag is asked without the lock, because it is the host's code.
        drop(state);
        let cancelled = cancel.is_cancelled();
        (self.lock(), cancelled)
    }

    /// Decodes what was asked for, for all who asked, as far as it goes into one batch.
    fn decode<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let Some(engine) = state.engine.take() else { return state };
        let mut jobs = state.next_batch(self.batch_tokens_max);
        let slots = jobs.iter().map(|job| job.slot).collect();
        let mut lease = Lease { batcher: self, engine: Some(engine), slots };
        drop(state);
        let started = Instant::now();
        let results = run(&mut lease, &mut jobs);
        lease.slots.clear();
        drop(lease);
        let mut state = self.lock();
        state.last_step = started.elapsed();
        for (job, result) in jobs.into_iter().zip(results) {
            if let Some(taken) = &mut state.seats[job.slot] {
                taken.done = Some(result.map(|()| job.row));
            }
        }
        self.changed.notify_all();
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives the caller with `ticket` a slot, if there is one for it and nobody before it could have it.
    fn try_seat(&mut self, ticket: u64, session: Option<u64>, prompt: &[u32]) -> Option<(usize, usize)> {
        let Self { engine, seats, waiting, .. } = self;
        let engine = engine.as_mut()?;
        // Who waits for a session's own slot holds nobody up.
        let stuck = |session: Option<u64>| engine.slots.of(session).is_some_and(|slot| seats[slot].is_some());
        let first = waiting.iter().find(|(_, session)| !stuck(*session)).map(|(ticket, _)| *ticket);
        if first != Some(ticket) {
            return None;
        }
        let free: Vec<bool> = seats.iter().map(Option::is_none).collect();
        let (slot, cached) = engine.take_slot(session, prompt, &|slot| free[slot])?;
        waiting.retain(|(other, _)| *other != ticket);
        seats[slot] = Some(Taken::default());
        Some((slot, cached))
    }

    /// Whether a batch may begin: all whom it is worth to wait for have asked, or were given their time.
    fn may_decode(&self) -> bool {
        if self.engine.is_none() || self.wanted_alone > 0 {
            return false;
        }
        let Some(first) = self.jobs.first() else { return false };
        let expected = self.seats.iter().flatten().filter(|taken| !taken.late).count();
        self.jobs.len() >= expected || first.asked.elapsed() >= self.patience()
    }

    /// A step missed costs who missed it a whole batch, and waiting costs everybody: half of one at the most.
    fn patience(&self) -> Duration {
        (self.last_step / 2).min(PATIENCE_MAX)
    }

    /// Takes the steps that go into one batch. The first always does, so that nobody is passed over for ever.
    fn next_batch(&mut self, tokens_max: usize) -> Vec<Job> {
        let mut room = tokens_max;
        let (mut batch, rest): (Vec<Job>, _) = std::mem::take(&mut self.jobs).into_iter().partition(|job: &Job| {
            let fits = job.tokens.len() <= room;
            room -= if fits { job.tokens.len() } else { 0 };
            fits
        });
        // llama.cpp computes sequences together that follow each other in a batch as they do by number, and others apart.
        batch.sort_by_key(|job| job.slot);
        self.jobs = rest;
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            if let Some(taken) = seat {
                let asked = |jobs: &[Job]| jobs.iter().any(|job| job.slot == slot);
                taken.late = !asked(&batch) && !asked(&self.jobs);
            }
        }
        batch
    }
}

/// Decodes `jobs` together and copies the rows; what fails together is tried one by one, so that each has its own error.
fn run(engine: &mut Engine, jobs: &mut [Job]) -> Vec<Result<()>> {
    let tokens: Vec<CancelToken> = jobs.iter().map(|job| job.cancel.clone()).collect();
    let watch = engine.watch(CancelToken::new(move || tokens.iter().all(CancelToken::is_cancelled)));
    let held: Vec<usize> = jobs.iter().map(|job| engine.slots.tokens(job.slot).len()).collect();
    let failed = match decode(engine, jobs) {
        Ok(()) => return jobs.iter().map(|_| Ok(())).collect(),
        Err(error) => error,
    };
    drop(watch);
    if jobs.len() == 1 || failed.kind == pajamas_plugin_api::ErrorKind::Cancelled {
        return jobs.iter().map(|_| Err(failed.clone())).collect();
    }
    let alone = |(job, held): (&mut Job, usize)| {
        if engine.slots.tokens(job.slot).len() != held {
            // The failure took along what the slot held.
            return Err(failed.clone());
        }
        let _watch = engine.watch(job.cancel.clone());
        decode(engine, std::slice::from_mut(job))
    };
    jobs.iter_mut().zip(held).map(alone).collect()
}

fn decode(engine: &mut Engine, jobs: &mut [Job]) -> Result<()> {
    let parts: Vec<Part<'_>> =
        jobs.iter().map(|job| Part { slot: job.slot, tokens: &job.tokens, rows: job.rows }).collect();
    engine.decode_together(&parts)?;
    let mut end = 0;
    for job in jobs {
        end += job.tokens.len();
        job.row.clear();
        if job.rows == Rows::Last {
            job.row.extend_from_slice(engine.logits(end - 1)?);
        }
    }
    Ok(())
}

impl Seat<'_> {
    /// Decodes `tokens` (some, at most [`Self::tokens_max`]) at the end of the slot, together with what others ask for, and
    /// gives the logits after the last one; none with `Rows::None`.
    ///
    /// # Errors
    /// `Cancelled`, those of decoding.
    pub(crate) fn step(&mut self, tokens: &[u32], rows: Rows, cancel: &CancelToken) -> Result<&[f32]> {
        let batcher = self.batcher;
        let mut state = batcher.lock();
        if state.epoch != self.epoch {
            return Err(Error::other("what was computed so far is lost, because another request failed badly"));
        }
        let (slot, row) = (self.slot, std::mem::take(&mut self.row));
        let tokens = tokens.to_vec();
        state.jobs.push(Job { slot, tokens, rows, cancel: cancel.clone(), asked: Instant::now(), row });
        if let Some(taken) = &mut state.seats[slot] {
            taken.late = false;
        }
        loop {
            if let Some(result) = state.seats[slot].as_mut().and_then(|taken| taken.done.take()) {
                drop(state);
                self.row = result?;
                return Ok(&self.row);
            }
            if state.may_decode() {
                state = batcher.decode(state);
                continue;
            }
            // At the end of its patience somebody has to begin.
            let pause =
                if state.engine.is_some() { state.patience().max(Duration::from_micros(50)) } else { CANCEL_POLL };
            let cancelled;
            (state, cancelled) = batcher.wait(state, pause, cancel);
            let pending = state.jobs.len();
            if cancelled {
                state.jobs.retain(|job| job.slot != slot);
                // One that is under way ends with its batch.
                if state.jobs.len() < pending {
                    batcher.changed.notify_all();
                    return Err(Error::cancelled());
                }
            }
        }
    }

    /// Tokens that one step takes: of a batch, what is left when everybody else has a token in it.
    pub(crate) fn tokens_max(&self) -> usize {
        let others = self.batcher.lock().seats.iter().flatten().count().saturating_sub(1);
        self.batcher.batch_tokens_max.saturating_sub(others).max(1)
    }

    /// Waits for the context as a whole, and does `work` with it and the slot's number.
    ///
    /// # Errors
    /// `Cancelled`, those of `work`.
    pub(crate) fn alone<T>(
        &mut self,
        cancel: &CancelToken,
        work: impl FnOnce(&mut Engine, usize) -> Result<T>,
    ) -> Result<T> {
        if let Some(taken) = &mut self.batcher.lock().seats[self.slot] {
            taken.late = true;
        }
        let mut lease = self.batcher.alone(cancel)?;
        lease.slots.push(self.slot);
        let result = work(&mut lease, self.slot);
        lease.slots.clear();
        result
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.batcher.lock().seats[self.slot] = None;
        self.batcher.changed.notify_all();
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(mut engine) = self.engine.take() else { return };
        let mut state = self.batcher.lock();
        if std::thread::panicking() {
            // Nobody knows what the cache holds.
            engine.forget();
            state.epoch += 1;
            for slot in &self.slots {
                if let Some(taken) = &mut state.seats[*slot] {
                    taken.done = Some(Err(Error::other("a request that was computed together with this one panicked")));
                }
            }
            // They were meant for the end of what is gone.
            for job in std::mem::take(&mut state.jobs) {
                if let Some(taken) = &mut state.seats[job.slot] {
                    taken.done = Some(Err(Error::other(
                        "what was computed so far is lost, because another request failed badly",
                    )));
                }
            }
        }
        state.engine = Some(engine);
        self.batcher.changed.notify_all();
    }
}

impl Deref for Lease<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        self.engine.as_ref().expect("a lease holds its context until it is dropped")
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("a lease holds its context until it is dropped")
    }
}
