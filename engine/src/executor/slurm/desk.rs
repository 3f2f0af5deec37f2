//! The thread that talks to the cluster: one question at a time, each answered by a message.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use okapi_cache::ActionDigest;

use super::client::{ClientError, Cluster, JobState};
use super::queue::Message;

/// A batch on its way to the cluster.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) name: String,
    pub(super) actions: Vec<ActionDigest>,
    pub(super) options: Vec<String>,
    pub(super) script: String,
    pub(super) env: Vec<(String, String)>,
}

/// What is asked.
pub(super) enum Question {
    Submit(Batch),
    States,
    /// What became of jobs that the controller knows no more.
    Account(Vec<String>),
    Cancel(Vec<String>),
    /// Take back what only waits.
    Withdraw(Vec<String>),
}

/// What is answered.
pub(super) enum Answer {
    Submitted(Batch, Result<String, ClientError>),
    States(Result<Vec<JobState>, ClientError>),
    Account(Vec<JobState>),
    Cancelled(Vec<String>, Result<(), ClientError>),
    /// How all jobs stand after that; without them nothing was taken back.
    Withdrawn(Vec<String>, Result<Vec<JobState>, ClientError>),
}

/// Where questions are put.
pub(super) struct Desk {
    questions: Sender<Question>,
    is_busy: bool,
}

impl Desk {
    /// Begins to put questions to `cluster`; the thread ends with the value.
    pub(super) fn open(mut cluster: impl Cluster, answers: Sender<Message>) -> Desk {
        let (questions, receiver) = channel();
        thread::spawn(move || {
            for question in receiver {
                let answer = match question {
                    Question::Submit(batch) => {
                        let id = cluster.submit(&batch.options, &batch.script, &batch.env);
                        Answer::Submitted(batch, id)
                    }
                    Question::States => Answer::States(cluster.states()),
                    Question::Account(ids) => {
                        // Where nobody writes down what became of jobs, Slurm's last word has to do.
                        Answer::Account(cluster.account(&ids).unwrap_or_default())
                    }
                    Question::Cancel(ids) => {
                        let result = cluster.cancel(&ids, false);
                        Answer::Cancelled(ids, result)
                    }
                    Question::Withdraw(ids) => {
                        let result = cluster.cancel(&ids, true).and_then(|()| cluster.states());
                        Answer::Withdrawn(ids, result)
                    }
                };
                if answers.send(Message::Answer(answer)).is_err() {
                    return;
                }
            }
        });
        Desk { questions, is_busy: false }
    }

    /// Whether an answer is still to come.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Puts a question; there must be none.
    pub(super) fn put(&mut self, question: Question) {
        // The thread lives as long as this value.
        self.is_busy = self.questions.send(question).is_ok();
    }

    /// Says that the answer has come.
    pub(super) fn answered(&mut self) {
        self.is_busy = false;
    }
}
