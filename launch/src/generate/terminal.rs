//! Answers on the terminal: each word as it comes on stdout, how fast it came on stderr; one question, or a conversation.
//! It never keeps what was said.

use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use data::{Message, Part, Role};
use model::Ops;
use serde_json::json;

use super::conversation::{self, Conversation};
use super::{Answerer, Tokens};
use crate::{Error, describe, print, say};

/// One answer: as it comes, or as a JSON document.
pub fn answer<O: Ops>(answerer: &Answerer<O>, asked: &Conversation, json: bool, quiet: bool) -> Result<(), Error> {
    let said = speak(answerer, asked, !json)?;
    if json {
        print(format!("{}\n", said.json(answerer)).as_bytes());
    } else if !quiet {
        say(&said.pace.to_string());
    }
    Ok(())
}

/// Turn after turn from stdin, until it ends. `/image FILE` shows a page in the next question, `/new` forgets what was
/// said; a mistake costs a turn, not the conversation.
pub fn chat<O: Ops>(
    answerer: &Answerer<O>,
    system: Option<&str>,
    given: Vec<Vec<u8>>,
    quiet: bool,
) -> Result<(), Error> {
    let typed = std::io::stdin().is_terminal();
    if typed {
        say("ask; /image FILE shows a page, /new begins anew, Ctrl-D ends");
    }
    let mut asked = Conversation { messages: conversation::begin(system), pages: Vec::new() };
    let mut shown = given;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if typed {
            eprint!("> ");
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line.map_err(Error::file(Path::new("stdin"), "read"))?;
        let line = line.trim();
        if let Some(file) = line.strip_prefix("/image ") {
            match answerer.pages.read(Path::new(file.trim())) {
                Ok(page) => shown.push(page),
                Err(error) => say(&describe(&error)),
            }
        } else if line == "/new" {
            asked = Conversation { messages: conversation::begin(system), pages: Vec::new() };
            shown.clear();
        } else if line.starts_with('/') {
            say("there are /image FILE and /new; Ctrl-D ends");
        } else if !line.is_empty() {
            let next = match conversation::parts(line, shown.len()) {
                Ok(parts) => asked.with(Role::User, parts, &shown),
                Err(markers) => {
                    say(&markers.to_string());
                    continue;
                }
            };
            match speak(answerer, &next, true) {
                Ok(said) => {
                    if !quiet {
                        say(&said.pace.to_string());
                    }
                    asked = next.with(Role::Assistant, vec![Part::Text(said.text)], &[]);
                    shown.clear();
                }
                Err(error) => say(&describe(&error)),
            }
        }
    }
}

impl Conversation {
    /// With one turn more.
    fn with(&self, role: Role, parts: Vec<Part>, pages: &[Vec<u8>]) -> Self {
        let mut next = self.clone();
        next.messages.push(Message { role, parts });
        next.pages.extend_from_slice(pages);
        next
    }
}

/// An answer and how it came.
struct Said {
    text: String,
    tokens: Tokens,
    n_prompt: usize,
    pace: Pace,
}

impl Said {
    fn json<O: Ops>(&self, answerer: &Answerer<O>) -> serde_json::Value {
        let sampling = answerer
            .sampling
            .map(|s| json!({"temperature": s.temperature, "top_k": s.top_k, "top_p": s.top_p, "seed": s.seed}));
        json!({
            "answer": self.text,
            "ended": self.tokens.ended,
            "prompt_tokens": self.n_prompt,
            "new_tokens": self.tokens.tokens.len(),
            "first_token_seconds": self.pace.first.map(|first| first.as_secs_f64()),
            "tokens_per_second": self.pace.per_second(),
            "sampling": sampling,
        })
    }
}

/// Answers, and with `aloud` prints what is said as it comes.
fn speak<O: Ops>(answerer: &Answerer<O>, asked: &Conversation, aloud: bool) -> Result<Said, Error> {
    let request = answerer.request(asked).map_err(Error::Prompt)?;
    let n_prompt = request.input_ids.len();
    let (mut tokens, mut said) = (Vec::new(), String::new());
    let mut pace = Pace::begin();
    let mut answers = answerer.answer(&[request], &mut |_, token| {
        pace.token();
        tokens.push(token);
        if aloud {
            let text = answerer.template.decode(&tokens);
            // A character may be spread over several tokens; it is shown once it is whole.
            if let Some(new) = text.strip_prefix(&said).filter(|new| !new.ends_with(char::REPLACEMENT_CHARACTER)) {
                print(new.as_bytes());
                said = text;
            }
        }
    })?;
    let text = answerer.template.decode(&tokens);
    if aloud {
        print(text.strip_prefix(&said).unwrap_or_default().as_bytes());
        print(b"\n");
    }
    Ok(Said { text, tokens: answers.pop().unwrap_or_default(), n_prompt, pace })
}

/// When tokens came.
struct Pace {
    start: Instant,
    first: Option<Duration>,
    last: Duration,
    n: usize,
}

impl Pace {
    fn begin() -> Self {
        Self { start: Instant::now(), first: None, last: Duration::ZERO, n: 0 }
    }

    fn token(&mut self) {
        self.last = self.start.elapsed();
        self.first.get_or_insert(self.last);
        self.n += 1;
    }

    /// Of the tokens after the first, which alone waited for the prompt.
    fn per_second(&self) -> Option<f64> {
        let time = self.last.saturating_sub(self.first?).as_secs_f64();
        (self.n > 1 && time > 0.0).then(|| (self.n - 1) as f64 / time)
    }
}

impl std::fmt::Display for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(first) = self.first else { return f.write_str("no token: the answer is empty") };
        write!(f, "{} tokens, the first after {:.2} s", self.n, first.as_secs_f64())?;
        self.per_second().map_or(Ok(()), |rate| write!(f, ", then {rate:.1} a second"))
    }
}
