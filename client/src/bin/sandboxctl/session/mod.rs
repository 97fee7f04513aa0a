//! `sandboxctl session`: one confined instance, of which exports are called and memories are looked at by commands, from a
//! terminal or a script.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use client::EntryRequest;
use ipc::protocol::one_line;
use ipc::report::{CallOutcome, Value};
use ipc::types::{Export, ExportType};
use serde_json::{Value as Json, json};
use supervisor::MemoryRef;
use supervisor::arguments::ConfigurationArguments;
use supervisor::daemon::signals::Interrupts;
use tokio::sync::mpsc;

use self::backend::Backend;
use self::command::Command;
use crate::error::Error;
use crate::run::{self, GuestOptions, Place};
use crate::{daemon, embedded, outcome};

pub mod backend;
mod command;

/// What an interactive user is asked with.
const PROMPT: &str = "sandbox> ";
/// Exit status when a command of a script has failed.
const FAILED: u8 = 1;

/// Hold a confined instance: call its exports, read and write its memories and globals, reset it.
///
/// Commands are read from standard input, one a line, or given by -c; `help` lists them. The instance is started, and its
/// `_initialize` called if it exports one, before the first command and after each reset. The guest itself has no standard
/// input unless all commands are given by -c.
///
/// Exit status: 0; 1 if a command of a script has failed (every line that does not come from a terminal, and -c); 130 when
/// interrupted at the prompt; 125 when there is no session.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    guest: GuestOptions,
    /// A command, instead of reading commands. Repeatable.
    #[arg(short = 'c', long = "command", value_name = "COMMAND", allow_hyphen_values = true)]
    commands: Vec<String>,
    /// Print what comes of each command as a JSON object on one line.
    #[arg(long)]
    json: bool,
    /// Compile the module with its debugging information, without a daemon: backtraces name source lines.
    #[arg(short = 'g', long)]
    debug_info: bool,
    /// Socket of the daemon [default: $SANDBOXD_SOCKET, else the usual one if a daemon listens there].
    #[arg(long, value_name = "PATH", conflicts_with_all = ["no_daemon", "debug_info", "config", "set"])]
    socket: Option<PathBuf>,
    /// Do not look for a daemon.
    #[arg(long)]
    no_daemon: bool,
    /// Directory of the artifact cache, without a daemon.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(flatten)]
    configuration: ConfigurationArguments,
    /// The module, and arguments for the guest.
    #[arg(value_names = ["MODULE", "ARGS"], required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    module_and_args: Vec<OsString>,
}

/// Runs a session to its end.
pub fn session(options: Options) -> Result<u8, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    let alone = options.no_daemon || options.debug_info || options.configuration.are_given();
    let place = run::place(options.socket.clone(), alone);
    let config = run::config(&options.configuration, options.state_dir.clone())?;
    let (module_path, args) = run::module_and_args(options.module_and_args)?;
    let mut plan = options.guest.plan(module_path, EntryRequest::Command, args, options.debug_info)?;
    if options.commands.is_empty() {
        plan.stdio[0] = None;
    }
    runtime.block_on(async {
        let mut interrupts = Interrupts::catch().map_err(Error::Signals)?;
        let backend = match place {
            Place::Daemon(socket) => {
                daemon::session(daemon::connect(&socket, &mut interrupts).await?, plan).await?
            }
            Place::DaemonIfAny(socket) => match daemon::connect(&socket, &mut interrupts).await {
                Ok(client) => daemon::session(client, plan).await?,
                Err(Error::Client(client::Error::Connect { .. })) => {
                    embedded::session(plan, config, &mut interrupts).await?
                }
                Err(error) => return Err(error),
            },
            Place::Embedded => embedded::session(plan, config, &mut interrupts).await?,
        };
        let mut repl = Repl { backend, exports: Vec::new(), json: options.json, failed: false };
        repl.exports = repl.backend.exports().await?;
        let is_interactive = options.commands.is_empty() && io::stdin().is_terminal();
        repl.begin("start", &mut interrupts).await?;
        let mut lines = lines(options.commands);
        loop {
            if is_interactive {
                print(PROMPT)?;
            }
            let line = tokio::select! {
                biased;
                line = lines.recv() => line,
                () = interrupts.arrived() => {
                    let _ = repl.end().await;
                    return Err(Error::Interrupted);
                }
            };
            let Some(line) = line else { break };
            if !repl.line(&line?, &mut interrupts).await? {
                break;
            }
        }
        let failed = repl.end().await?;
        Ok(if failed && !is_interactive { FAILED } else { 0 })
    })
}

/// The commands that were given, or those on standard input. A thread reads them: it may wait for ever, and does not keep the
/// program from ending.
fn lines(commands: Vec<String>) -> mpsc::UnboundedReceiver<Result<String, Error>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    if commands.is_empty() {
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                if sender.send(line.map_err(Error::Stdin)).is_err() {
                    return;
                }
            }
        });
    } else {
        for command in commands {
            // The receiver is alive.
            let _ = sender.send(Ok(command));
        }
    }
    receiver
}

struct Repl {
    backend: Backend,
    exports: Vec<Export>,
    json: bool,
    /// Whether a command has failed.
    failed: bool,
}

/// What came of a command: what to print, plainly or as members of a JSON object. An error is a message.
type Answer = Result<(String, Json), String>;

impl Repl {
    /// Starts the instance as a command does.
    async fn begin(&mut self, word: &str, interrupts: &mut Interrupts) -> Result<(), Error> {
        let mut outcome = self.backend.start(interrupts).await?;
        let initialise = self
            .exports
            .iter()
            .any(|export| export.name == "_initialize" && matches!(export.ty, ExportType::Function { .. }));
        if initialise && matches!(outcome, CallOutcome::Returned(_)) {
            outcome = self.backend.call("_initialize", &[], interrupts).await?;
        }
        self.tell(word, called(outcome))
    }

    /// Carries out a line; false when it asks for the end. An error is one after which there is no session.
    async fn line(&mut self, line: &str, interrupts: &mut Interrupts) -> Result<bool, Error> {
        let command = match Command::parse(line) {
            Ok(Some(Command::End)) => return Ok(false),
            Ok(Some(command)) => command,
            Ok(None) => return Ok(true),
            Err(message) => {
                self.tell("?", Err(message))?;
                return Ok(true);
            }
        };
        let word = command.word();
        if command == Command::Reset {
            match self.backend.reset().await {
                Ok(()) => self.begin(word, interrupts).await?,
                Err(error) => self.tell(word, Err(survived(error)?))?,
            }
            return Ok(true);
        }
        let answer = match self.carry_out(command, interrupts).await {
            Ok(answer) => answer,
            Err(error) => Err(survived(error)?),
        };
        self.tell(word, answer)?;
        Ok(true)
    }

    async fn carry_out(&mut self, command: Command, interrupts: &mut Interrupts) -> Result<Answer, Error> {
        let done = || (String::new(), json!({}));
        Ok(Ok(match command {
            Command::Call { name, args } => match command::arguments(&self.exports, &name, &args) {
                Ok(args) => return Ok(called(self.backend.call(&name, &args, interrupts).await?)),
                Err(message) => return Ok(Err(message)),
            },
            Command::Read { memory, offset, length, as_text } => {
                let bytes = self.backend.read(memory_ref(&memory), offset, length).await?;
                let (hex, text) = (command::hex(&bytes), command::quoted(&bytes));
                (if as_text { text } else { hex.clone() }, json!({ "bytes": hex }))
            }
            Command::Write { memory, offset, bytes } => {
                self.backend.write(memory_ref(&memory), offset, &bytes).await?;
                done()
            }
            Command::Global { name, value: None } => {
                let value = self.backend.global(&name).await?;
                (ipc::text::format(&value), json!({ "value": client::value_json(&value) }))
            }
            Command::Global { name, value: Some(text) } => {
                match command::global_value(&self.exports, &name, &text) {
                    Ok(value) => self.backend.set_global(&name, value).await?,
                    Err(message) => return Ok(Err(message)),
                }
                done()
            }
            Command::Memory(Some(memory)) => {
                let bytes = self.backend.memory_size(memory_ref(&memory)).await?;
                (bytes.to_string(), json!({ "size": bytes }))
            }
            Command::Memory(None) => self.memories().await?,
            Command::Exports => {
                let text = |e: &Export| format!("{} {}", command::quoted(e.name.as_bytes()), e.ty);
                let lines: Vec<String> = self.exports.iter().map(text).collect();
                let json = |e: &Export| json!({ "name": e.name, "type": e.ty.to_string() });
                (lines.join("\n"), json!({ "exports": self.exports.iter().map(json).collect::<Vec<_>>() }))
            }
            Command::Usage => {
                let usage = client::usage_json(&self.backend.usage().await?);
                let members = usage.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
                let lines: Vec<String> = members.map(|(key, value)| format!("{key} {value}")).collect();
                (lines.join("\n"), json!({ "usage": usage }))
            }
            Command::Help => (command::HELP.trim_end().to_owned(), json!({ "help": command::HELP })),
            Command::Reset | Command::End => done(),
        }))
    }

    /// Sizes of exported memories.
    async fn memories(&mut self) -> Result<(String, Json), Error> {
        let (mut lines, mut sizes) = (Vec::new(), serde_json::Map::new());
        for Export { name, ty } in &self.exports {
            if matches!(ty, ExportType::Memory { .. }) {
                let bytes = self.backend.memory_size(MemoryRef::Export(name)).await?;
                lines.push(format!("{} {bytes}", command::quoted(name.as_bytes())));
                sizes.insert(name.clone(), json!(bytes));
            }
        }
        Ok((lines.join("\n"), json!({ "sizes": sizes })))
    }

    /// Ends the session. Returns whether a command has failed.
    async fn end(self) -> Result<bool, Error> {
        let report = self.backend.end().await?;
        if self.json {
            let line = json!({ "command": "end", "ok": true, "report": client::report_json(&report) });
            print(&format!("{line}\n"))?;
        }
        Ok(self.failed)
    }

    /// Prints what came of a command: results on stdout, errors on stderr; as JSON, both on stdout too.
    fn tell(&mut self, word: &str, answer: Answer) -> Result<(), Error> {
        let mut object = json!({ "command": word, "ok": answer.is_ok() });
        let members = match answer {
            Ok((text, members)) => {
                if !self.json && !text.is_empty() {
                    print(&format!("{text}\n"))?;
                }
                members
            }
            Err(message) => {
                self.failed = true;
                // Nobody may be reading.
                let _ = writeln!(io::stderr(), "{message}");
                json!({ "error": message })
            }
        };
        if self.json {
            if let (Json::Object(object), Json::Object(members)) = (&mut object, members) {
                object.extend(members);
            }
            print(&format!("{object}\n"))?;
        }
        Ok(())
    }
}

/// The message of an error after which the session is as it was; otherwise the error.
fn survived(error: Error) -> Result<String, Error> {
    match error {
        Error::Supervisor(_) | Error::Client(client::Error::Daemon(_)) => Ok(one_line(&error.to_string())),
        fatal => Err(fatal),
    }
}

fn called(outcome: CallOutcome) -> Answer {
    match outcome {
        CallOutcome::Returned(results) => {
            let texts: Vec<String> = results.iter().map(ipc::text::format).collect();
            let results: Vec<Json> = results.iter().map(|value: &Value| client::value_json(value)).collect();
            Ok((texts.join(" "), json!({ "results": results })))
        }
        CallOutcome::Trapped(trap) => Err(outcome::trap_text(&trap)),
        CallOutcome::Ended(ended) => {
            let what = outcome::text(&ended);
            Err(format!("the instance has ended: {what}; `reset` starts another"))
        }
    }
}

fn memory_ref(text: &str) -> MemoryRef<'_> {
    text.parse().map_or(MemoryRef::Export(text), MemoryRef::Index)
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Stdout)
}
