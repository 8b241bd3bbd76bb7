//! Two models through the same windows, position by position, by turns: no row of logits outlives its comparison, and
//! the two never compute at the same time, because engines that share a CPU slow each other down.

use super::compare::{Difference, Prediction, compare, predict};
use super::text::Windows;
use crate::error::{Error, Result};
use crate::runtime::Engine;
use pajamas_plugin_api::CancelToken;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rows that the reference may be ahead, in bytes: as many as llama.cpp computes in one batch.
const AHEAD_BYTES_MAX: usize = 64 << 20;

/// The same in rows, for small vocabularies.
const AHEAD_ROWS_MAX: usize = 512;

/// Who worked for how long.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// The reference computed.
    pub reference: Duration,
    /// The candidate computed.
    pub candidate: Duration,
    /// Rows were compared.
    pub comparison: Duration,
}

/// Takes `engine` alone through the windows; `each` gets every scored position.
///
/// # Errors
/// The engine's, and `Interrupted`.
pub fn alone(engine: &Engine, windows: &Windows, each: &mut dyn FnMut(Prediction), cancel: &CancelToken) -> Result<()> {
    for index in 0..windows.count() {
        cancel.check()?;
        let window = windows.get(index);
        let mut rows = 0;
        let mut on_row = |position: usize, row: &[f32]| match window.get(position + 1) {
            Some(next) if position == rows && row.len() > *next as usize => {
                rows += 1;
                each(predict(row, *next));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Break(()),
        };
        engine.logits(&window, 0, &mut on_row, cancel)?;
        cancel.check()?;
        check_rows(rows, &window)?;
    }
    cancel.check().map_err(Into::into)
}

/// Takes both through the windows; `each` gets every scored position.
///
/// # Errors
/// The engines', and `Interrupted`.
pub fn both(
    reference: &Engine,
    candidate: &Engine,
    windows: &Windows,
    each: &mut dyn FnMut(&Difference),
    cancel: &CancelToken,
) -> Result<Times> {
    let row_bytes = 4 * reference.info().vocabulary_size.max(1) as usize;
    let turns = Turns::new((AHEAD_BYTES_MAX / row_bytes).clamp(1, AHEAD_ROWS_MAX));
    std::thread::scope(|scope| {
        let ahead = scope.spawn(|| {
            let _finish = OnDrop(|| turns.finish());
            run_reference(reference, windows, &turns, cancel)
        });
        let behind = {
            let _stop = OnDrop(|| turns.stop());
            run_candidate(candidate, windows, &turns, each, cancel)
        };
        let ahead = ahead.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        // The candidate's failure stops the reference, and then is the one to tell.
        let times = behind?;
        ahead?;
        cancel.check()?;
        Ok(times)
    })
}

fn run_reference(engine: &Engine, windows: &Windows, turns: &Turns, cancel: &CancelToken) -> Result<()> {
    for index in 0..windows.count() {
        let window = windows.get(index);
        let (mut rows, mut stopped) = (0, false);
        let mut on_row = |position: usize, row: &[f32]| match window.get(position + 1) {
            Some(next) if position == rows && row.len() > *next as usize => {
                rows += 1;
                let flow = turns.push(row);
                stopped = flow.is_break();
                flow
            }
            _ => ControlFlow::Break(()),
        };
        engine.logits(&window, 0, &mut on_row, cancel)?;
        if stopped {
            break;
        }
        cancel.check()?;
        check_rows(rows, &window)?;
    }
    Ok(())
}

fn run_candidate(
    engine: &Engine,
    windows: &Windows,
    turns: &Turns,
    each: &mut dyn FnMut(&Difference),
    cancel: &CancelToken,
) -> Result<Times> {
    let started = Instant::now();
    let mut times = Times::default();
    times.reference += turns.wait_for_candidate();
    for index in 0..windows.count() {
        let window = windows.get(index);
        let (mut rows, mut ended) = (0, false);
        let mut on_row = |position: usize, row: &[f32]| {
            let Some(next) = window.get(position + 1) else { return ControlFlow::Break(()) };
            if position != rows || row.len() <= *next as usize {
                return ControlFlow::Break(());
            }
            let (waited, other) = turns.pop();
            times.reference += waited;
            let Some(other) = other else {
                ended = true;
                return ControlFlow::Break(());
            };
            rows += 1;
            let comparing = Instant::now();
            each(&compare(&other, row, *next));
            turns.give_back(other);
            times.comparison += comparing.elapsed();
            ControlFlow::Continue(())
        };
        engine.logits(&window, 0, &mut on_row, cancel)?;
        if ended {
            break;
        }
        cancel.check()?;
        check_rows(rows, &window)?;
    }
    times.candidate = started.elapsed().saturating_sub(times.reference + times.comparison);
    Ok(times)
}

/// A backend that skips a position, or gives a row that is too short, would make figures that look right and are not.
fn check_rows(rows: usize, window: &[u32]) -> Result<()> {
    if rows + 1 == window.len() {
        return Ok(());
    }
    Err(Error::Refused {
        message: format!(
            "the backend gave {rows} whole rows of logits in order, and {} were asked for",
            window.len() - 1
        ),
        hint: "this is a defect of the backend: try another".into(),
    })
}

#[derive(PartialEq)]
enum Turn {
    Reference,
    Candidate,
}

struct State {
    turn: Turn,
    rows: VecDeque<Vec<f32>>,
    /// Buffers of rows that were compared.
    spare: Vec<Vec<f32>>,
    /// The reference has given its last row.
    finished: bool,
    /// The candidate takes no more.
    stopped: bool,
}

/// Whose turn it is, and the rows that one side is ahead.
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    rows_max: usize,
}

impl Turns {
    fn new(rows_max: usize) -> Self {
        let state =
            State { turn: Turn::Reference, rows: VecDeque::new(), spare: Vec::new(), finished: false, stopped: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), rows_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(&self, state: MutexGuard<'a, State>, f: impl Fn(&State) -> bool) -> MutexGuard<'a, State> {
        self.changed.wait_while(state, |state| f(state)).unwrap_or_else(PoisonError::into_inner)
    }

    /// The reference hands over a row, and its turn once it is far enough ahead.
    fn push(&self, row: &[f32]) -> ControlFlow<()> {
        let mut state = self.lock();
        let mut buffer = state.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(row);
        state.rows.push_back(buffer);
        if state.rows.len() >= self.rows_max {
            state.turn = Turn::Candidate;
            self.changed.notify_all();
            state = self.wait_while(state, |state| state.turn == Turn::Candidate && !state.stopped);
        }
        if state.stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The reference has no more rows.
    fn finish(&self) {
        let mut state = self.lock();
        state.finished = true;
        state.turn = Turn::Candidate;
        self.changed.notify_all();
    }

    /// The candidate may compute when this returns; tells how long it took.
    fn wait_for_candidate(&self) -> Duration {
        let started = Instant::now();
        let _state = self.wait_while(self.lock(), |state| state.turn == Turn::Reference);
        started.elapsed()
    }

    /// The reference's next row, none after its last one; and how long that took.
    fn pop(&self) -> (Duration, Option<Vec<f32>>) {
        let mut state = self.lock();
        if state.rows.is_empty() && !state.finished {
            let started = Instant::now();
            state.turn = Turn::Reference;
            self.changed.notify_all();
            let mut state = self.wait_while(state, |state| state.turn == Turn::Reference);
            return (started.elapsed(), state.rows.pop_front());
        }
        (Duration::ZERO, state.rows.pop_front())
    }

    fn give_back(&self, row: Vec<f32>) {
        self.lock().spare.push(row);
    }

    /// The candidate takes no more rows.
    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Runs when dropped, in a panic too: the other side must not wait for ever.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Both sides pass `count` rows; the reference is never further ahead than `rows_max`, and rows come in order.
    fn pass(count: usize, rows_max: usize, taken_max: usize) -> usize {
        let turns = Turns::new(rows_max);
        let ahead = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _finish = OnDrop(|| turns.finish());
                for number in 0..count {
                    assert!(ahead.fetch_add(1, Ordering::SeqCst) < rows_max);
                    if turns.push(&[number as f32]).is_break() {
                        return;
                    }
                }
            });
            let _stop = OnDrop(|| turns.stop());
            turns.wait_for_candidate();
            let mut taken = 0;
            while taken < taken_max {
                ahead.fetch_sub(usize::from(taken > 0), Ordering::SeqCst);
                let (_, Some(row)) = turns.pop() else { break };
                assert_eq!(row, [taken as f32]);
                turns.give_back(row);
                taken += 1;
            }
            taken
        })
    }

    #[test]
    fn rows_come_in_order_and_one_side_is_never_far_ahead() {
        for (count, rows_max) in [(0, 1), (1, 1), (7, 1), (7, 3), (9, 3), (5, 100)] {
            assert_eq!(pass(count, rows_max, usize::MAX), count, "{count} rows, {rows_max} ahead");
        }
    }

    #[test]
    fn a_side_that_stops_does_not_leave_the_other_waiting() {
        assert_eq!(pass(100, 3, 4), 4);
    }
}
