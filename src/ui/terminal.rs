//! Live lines on a terminal: one overall, one per running node, and one that counts the running
//! nodes for which there is no room.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use okapi_engine::event::Event;

use crate::ui::format;
use crate::ui::progress::{Display, Tally, describe, is_trouble, measured, spent};

/// More live lines than these would push each other off the screen.
const MOST_LINES: usize = 12;

/// How often lines are drawn when nothing happens: a clock that stands still looks like a hang.
const TICK: Duration = Duration::from_millis(200);

pub(crate) struct Terminal {
    bars: MultiProgress,
    overall: ProgressBar,
    /// Running nodes with a line.
    shown: BTreeMap<String, ProgressBar>,
    /// Running nodes without one, and since when; the one that began first gets the next line.
    hidden: Vec<(String, Instant)>,
    /// Counts the hidden ones.
    more: Option<ProgressBar>,
    /// Shared with the line's own drawing, which goes on between events.
    cached: Arc<AtomicU64>,
    ran: u64,
    failed: u64,
    skipped: u64,
    total: u64,
    saved_ms: u64,
    /// What each running node has asked of teachers, as it is shown.
    spends: BTreeMap<String, String>,
    /// What each running node has measured last, as it is shown.
    measures: BTreeMap<String, String>,
}

impl Terminal {
    pub(crate) fn new() -> Terminal {
        Terminal::on(ProgressDrawTarget::stderr())
    }

    fn on(target: ProgressDrawTarget) -> Terminal {
        let bars = MultiProgress::with_draw_target(target);
        let overall = bars.add(ProgressBar::new(0));
        let cached = Arc::new(AtomicU64::new(0));
        let without_work = Arc::clone(&cached);
        let rest = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let worked = state.pos().saturating_sub(without_work.load(Ordering::Relaxed));
            let left = state.len().unwrap_or(0).saturating_sub(state.pos());
            if let Some(seconds) = seconds_left(state.elapsed(), worked, left) {
                // There is nobody to tell that a line cannot be drawn.
                let _ = write!(text, "  eta {}", format::duration(seconds * 1000));
            }
        };
        let style = "{bar:28} {pos}/{len}{msg}  {elapsed}{rest}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            overall.set_style(style.progress_chars("━╸ ").with_key("rest", rest));
        }
        Terminal {
            bars,
            overall,
            shown: BTreeMap::new(),
            hidden: Vec::new(),
            more: None,
            cached,
            ran: 0,
            failed: 0,
            skipped: 0,
            total: 0,
            saved_ms: 0,
            spends: BTreeMap::new(),
            measures: BTreeMap::new(),
        }
    }

    fn begin(&mut self, node: &str) {
        if self.shown.len() < MOST_LINES {
            self.add_line(node, Instant::now());
        } else {
            self.hidden.push((node.to_owned(), Instant::now()));
            self.count_hidden();
        }
    }

    fn end(&mut self, node: &str) {
        self.spends.remove(node);
        self.measures.remove(node);
        self.hidden.retain(|(hidden, _)| hidden != node);
        if let Some(bar) = self.shown.remove(node) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
            if !self.hidden.is_empty() {
                let (next, since) = self.hidden.remove(0);
                self.add_line(&next, since);
            }
        }
        self.count_hidden();
    }

    fn add_line(&mut self, node: &str, since: Instant) {
        let bar = ProgressBar::new_spinner().with_elapsed(since.elapsed());
        let bar = match &self.more {
            Some(more) => self.bars.insert_before(more, bar),
            None => self.bars.add(bar),
        };
        if let Ok(style) =
            ProgressStyle::with_template("  {spinner} {prefix}  {elapsed}  {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(node.to_owned());
        bar.enable_steady_tick(TICK);
        self.shown.insert(node.to_owned(), bar);
    }

    fn count_hidden(&mut self) {
        if self.hidden.is_empty() {
            if let Some(more) = self.more.take() {
                more.finish_and_clear();
                self.bars.remove(&more);
            }
            return;
        }
        let more = self.more.get_or_insert_with(|| {
            let more = self.bars.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {wide_msg}") {
                more.set_style(style);
            }
            more
        });
        more.set_message(format!("and {} more", self.hidden.len()));
    }

    fn settled(&self) -> u64 {
        self.cached.load(Ordering::Relaxed) + self.ran + self.failed + self.skipped
    }

    /// The counts behind the bar, such as `  12 cached, 1 failed`.
    fn counts(&self) -> String {
        let mut text = String::new();
        for (count, what) in [
            (self.cached.load(Ordering::Relaxed), "cached"),
            (self.failed, "failed"),
            (self.skipped, "not run"),
        ] {
            if count > 0 {
                let separator = if text.is_empty() { "  " } else { ", " };
                // Writing to a string never fails.
                let _ = write!(text, "{separator}{count} {what}");
            }
        }
        text
    }

    fn clear(&mut self) {
        self.hidden.clear();
        self.count_hidden();
        std::mem::take(&mut self.shown).values().for_each(ProgressBar::finish_and_clear);
        self.overall.finish_and_clear();
    }
}

impl Display for Terminal {
    fn show(&mut self, event: &Event) {
        let mut print = is_trouble(event) || matches!(event, Event::Interrupted { .. });
        match event {
            Event::RunStarted { total, .. } => {
                self.total = *total;
                self.overall.set_length(*total);
                self.overall.enable_steady_tick(TICK);
            }
            Event::Cached { count } => {
                self.cached.fetch_add(*count, Ordering::Relaxed);
            }
            Event::NodeCached { .. } => {
                self.cached.fetch_add(1, Ordering::Relaxed);
            }
            Event::NodeStarted { node, .. } => self.begin(node),
            Event::NodeProgress { node, done, total, unit } => {
                if let Some(bar) = self.shown.get(node) {
                    let rate = *done as f64 / bar.elapsed().as_secs_f64().max(0.001);
                    let of = total.map_or(String::new(), |total| format!("/{total}"));
                    let spend = self.spends.get(node).map(String::as_str).unwrap_or_default();
                    let measures = self.measures.get(node).map(String::as_str).unwrap_or_default();
                    bar.set_message(format!("{done}{of} {unit}, {rate:.1}/s{measures}{spend}"));
                }
            }
            Event::NodeSubmitted { node, job, host } => {
                if let Some(bar) = self.shown.get(node) {
                    bar.set_message(match host {
                        None => format!("job {job} waits"),
                        Some(host) => format!("job {job} on {host}"),
                    });
                }
            }
            Event::NodeMeasures { node, values, .. } => {
                self.measures.insert(node.clone(), measured(values));
            }
            Event::NodeSpend { node, spend } => {
                self.spends.insert(node.clone(), spent(spend));
            }
            Event::NodeRetrying { node, .. } => self.end(node),
            Event::NodeFinished { node, .. } => {
                self.ran += 1;
                self.end(node);
            }
            Event::NodeFailed { node, .. } => {
                self.failed += 1;
                self.end(node);
            }
            Event::NodeSkipped { .. } => self.skipped += 1,
            Event::Published { .. }
            | Event::NodeWaiting { .. }
            | Event::NodeFetching { .. }
            | Event::Sending { .. }
            | Event::RemoteUsed { .. }
            | Event::RecordsShared { .. } => print = true,
            Event::RunFinished { .. } => {
                self.clear();
                print = true;
            }
            _ => {}
        }
        if !self.overall.is_finished() {
            // The message last: it is always drawn, a position not before the next tick.
            self.overall.set_position(self.settled());
            self.overall.set_message(self.counts());
        }
        let tally = Tally { settled: self.settled(), total: self.total, saved_ms: self.saved_ms };
        if print && let Some(lines) = describe(event, tally) {
            self.bars.suspend(|| crate::ui::output::note(&lines));
        }
    }

    fn saved(&mut self, ms: u64) {
        self.saved_ms = ms;
    }
}

/// How long the rest takes if it goes on as it went, in whole seconds. Nothing is said before the
/// first node has been worked on, for what the cache gave says nothing about the rest.
fn seconds_left(elapsed: Duration, worked: u64, left: u64) -> Option<u64> {
    if worked == 0 || left == 0 {
        return None;
    }
    let seconds = (elapsed.as_secs_f64() / worked as f64 * left as f64).round();
    (seconds >= 1.0).then_some(seconds as u64)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use indicatif::TermLike;
    use okapi_engine::event::VERSION;

    use super::*;

    /// A terminal that sends what is drawn, one text per drawing.
    #[derive(Debug)]
    struct Drawn {
        drawing: Mutex<String>,
        sender: Mutex<Sender<String>>,
    }

    impl Drawn {
        fn add(&self, text: &str) -> io::Result<()> {
            self.drawing.lock().unwrap().push_str(text);
            Ok(())
        }
    }

    impl TermLike for Drawn {
        fn width(&self) -> u16 {
            120
        }
        fn height(&self) -> u16 {
            60
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, line: &str) -> io::Result<()> {
            self.add(&format!("{line}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.add(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            let drawing = std::mem::take(&mut *self.drawing.lock().unwrap());
            // The test may have seen enough.
            let _ = self.sender.lock().unwrap().send(drawing);
            Ok(())
        }
    }

    fn terminal() -> (Terminal, Receiver<String>) {
        let (sender, receiver) = channel();
        let drawn = Drawn { drawing: Mutex::default(), sender: Mutex::new(sender) };
        (Terminal::on(ProgressDrawTarget::term_like(Box::new(drawn))), receiver)
    }

    /// The newest drawing.
    fn last(receiver: &Receiver<String>) -> String {
        receiver.try_iter().last().unwrap()
    }

    fn started(total: u64) -> Event {
        let (run, pipeline) = ("r".into(), "p".into());
        Event::RunStarted { version: VERSION, run, pipeline, total, jobs: 20 }
    }

    fn node_started(number: usize) -> Event {
        let node = format!("n{number:02}");
        Event::NodeStarted { node, action: String::new(), reason: String::new(), attempt: 1 }
    }

    fn node_finished(number: usize) -> Event {
        Event::NodeFinished {
            node: format!("n{number:02}"),
            action: String::new(),
            duration_ms: 1,
            output_bytes: 1,
            unchanged: false,
            unsteady: false,
            metrics: BTreeMap::new(),
            spend: Default::default(),
        }
    }

    #[test]
    fn the_overall_line_counts_what_was_cached_and_promises_nothing_at_the_start() {
        let (mut terminal, receiver) = terminal();
        terminal.show(&started(30));
        assert!(last(&receiver).contains(" 0/30  "));
        terminal.show(&Event::Cached { count: 10 });
        let drawn = last(&receiver);
        assert!(drawn.contains(" 10/30  10 cached  0s"), "{drawn}");
        assert!(!drawn.contains("eta"), "{drawn}");
    }

    #[test]
    fn lines_are_drawn_when_nothing_happens() {
        let (mut terminal, receiver) = terminal();
        terminal.show(&started(1));
        receiver.try_iter().for_each(drop);
        for _ in 0..2 {
            receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        }
    }

    #[test]
    fn running_nodes_without_a_line_are_counted_and_move_up() {
        let (mut terminal, receiver) = terminal();
        terminal.show(&started(20));
        (0..15).for_each(|number| terminal.show(&node_started(number)));
        let drawn = last(&receiver);
        assert!(drawn.contains("n11") && !drawn.contains("n12"), "{drawn}");
        assert!(drawn.trim_end().ends_with("and 3 more"), "{drawn}");
        terminal.show(&node_finished(4));
        terminal.show(&node_finished(14));
        let drawn = last(&receiver);
        assert!(drawn.contains("n12") && !drawn.contains("n04"), "{drawn}");
        assert!(drawn.trim_end().ends_with("and 1 more"), "{drawn}");
        terminal.show(&node_finished(0));
        let drawn = last(&receiver);
        assert!(drawn.contains("n13") && !drawn.contains("more"), "{drawn}");
    }

    #[test]
    fn what_a_node_measures_stands_in_its_line() {
        let (mut terminal, receiver) = terminal();
        terminal.show(&started(1));
        terminal.show(&node_started(1));
        let values = BTreeMap::from([
            ("learning_rate".to_owned(), 2e-5),
            ("loss".to_owned(), 2.5),
            ("loss.detail".to_owned(), 1.0),
        ]);
        terminal.show(&Event::NodeMeasures { node: "n01".into(), step: 3, values });
        terminal.show(&Event::NodeProgress {
            node: "n01".into(),
            done: 3,
            total: Some(10),
            unit: "steps".into(),
        });
        let drawn = last(&receiver);
        assert!(drawn.contains("3/10 steps") && drawn.contains("learning_rate 2.00e-5; loss 2.5"));
        assert!(!drawn.contains("detail"), "{drawn}");
    }

    #[test]
    fn the_rest_is_estimated_from_what_was_worked_on() {
        let seconds = Duration::from_secs;
        assert_eq!(seconds_left(seconds(5), 0, 10), None, "nothing is known yet");
        assert_eq!(seconds_left(seconds(5), 1, 10), Some(50));
        assert_eq!(seconds_left(seconds(5), 10, 0), None);
        assert_eq!(seconds_left(Duration::from_millis(20), 10, 10), None, "no `eta 0s`");
    }
}
