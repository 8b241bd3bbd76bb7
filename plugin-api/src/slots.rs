//! Which session sits in which slot of a KV cache, and which tokens each slot holds.

/// A slot: one sequence of the KV cache.
#[derive(Debug, Default)]
struct Slot {
    session: Option<u64>,
    /// The tokens whose keys and values are in the cache, in order.
    tokens: Vec<u32>,
    last_used: u64,
}

/// All slots of a context. Plain bookkeeping: who changes the cache says so here, and the other way round.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Slot>,
    clock: u64,
}

impl Slots {
    /// `count` empty slots, at least one.
    pub fn new(count: usize) -> Self {
        Self { slots: (0..count.max(1)).map(|_| Slot::default()).collect(), clock: 0 }
    }

    /// The slot for `session` and whether it may keep its tokens: its own one, else the one without a session, else the
    /// one least recently used. A request without a session keeps nothing.
    pub fn assign(&mut self, session: Option<u64>) -> (usize, bool) {
        self.assign_free(session, &|_| true).unwrap_or((0, false))
    }

    /// As [`Self::assign`], among the slots that are `free`; none where the session's own one is not, or no slot is.
    pub fn assign_free(&mut self, session: Option<u64>, free: &dyn Fn(usize) -> bool) -> Option<(usize, bool)> {
        let own = self.of(session);
        let index = match own {
            Some(own) => Some(own).filter(|own| free(*own)),
            None => {
                // What belongs to no session holds nothing worth keeping: the lowest of these, because engines compute slots
                // that follow each other best together.
                let by_age = |(_, slot): &(usize, &Slot)| slot.session.map_or((false, 0), |_| (true, slot.last_used));
                let slots = self.slots.iter().enumerate().filter(|(index, _)| free(*index));
                slots.min_by_key(by_age).map(|(index, _)| index)
            }
        }?;
        self.clock += 1;
        let slot = &mut self.slots[index];
        slot.session = session;
        slot.last_used = self.clock;
        Some((index, own.is_some()))
    }

    /// The slot of `session`, if it has one.
    pub fn of(&self, session: Option<u64>) -> Option<usize> {
        session.and_then(|id| self.slots.iter().position(|slot| slot.session == Some(id)))
    }

    /// The tokens that slot `index` holds.
    pub fn tokens(&self, index: usize) -> &[u32] {
        &self.slots[index].tokens
    }

    /// How many of `prompt`'s tokens need no processing in slot `index`. The last one always does: its logits are wanted.
    pub fn common_prefix(&self, index: usize, prompt: &[u32]) -> usize {
        let common = self.slots[index].tokens.iter().zip(prompt).take_while(|(held, wanted)| held == wanted).count();
        common.min(prompt.len().saturating_sub(1))
    }

    /// Slot `index` now holds these tokens too.
    pub fn extend(&mut self, index: usize, tokens: &[u32]) {
        self.slots[index].tokens.extend_from_slice(tokens);
    }

    /// Slot `index` now holds its first `length` tokens only.
    pub fn truncate(&mut self, index: usize, length: usize) {
        self.slots[index].tokens.truncate(length);
    }

    /// No slot holds anything.
    pub fn clear(&mut self) {
        for slot in &mut self.slots {
            *slot = Slot { last_used: slot.last_used, ..Slot::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_keep_their_slot_and_the_least_recently_used_one_goes() {
        let mut slots = Slots::new(2);
        let (a, kept) = slots.assign(Some(1));
        assert!(!kept);
        let (b, _) = slots.assign(Some(2));
        assert_ne!(a, b);
        assert_eq!(slots.assign(Some(1)), (a, true));
        assert_eq!(slots.assign(Some(3)), (b, false), "session 2 was used longest ago");
        assert_eq!(slots.assign(Some(2)), (a, false));
    }

    #[test]
    fn a_request_without_session_takes_the_slot_that_has_none() {
        let mut slots = Slots::new(2);
        let (a, _) = slots.assign(Some(1));
        let (b, _) = slots.assign(None);
        assert_ne!(a, b);
        assert_eq!(slots.assign(None), (b, false));
        assert_eq!(slots.assign(Some(1)), (a, true));
    }

    #[test]
    fn a_slot_that_is_taken_is_not_given_away() {
        let mut slots = Slots::new(2);
        let (a, _) = slots.assign(Some(1));
        let free = move |slot| slot != a;
        assert_eq!(slots.assign_free(Some(1), &free), None, "its own slot is taken");
        let (b, kept) = slots.assign_free(Some(2), &free).unwrap();
        assert!(a != b && !kept);
        assert_eq!(slots.assign_free(None, &|_| false), None);
        assert_eq!(slots.assign(Some(1)), (a, true));
    }

    #[test]
    fn the_last_prompt_token_is_always_processed() {
        let mut slots = Slots::new(1);
        slots.extend(0, &[1, 2, 3]);
        assert_eq!(slots.common_prefix(0, &[1, 2, 3]), 2);
        assert_eq!(slots.common_prefix(0, &[1, 2, 3, 4]), 3);
        assert_eq!(slots.common_prefix(0, &[1, 9]), 1);
        assert_eq!(slots.common_prefix(0, &[]), 0);
    }
}
