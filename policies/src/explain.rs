//! What a policy means, in words.

use std::fmt::Write;

use ipc::control::layer;
use ipc::interface::FUNCTIONS;
use ipc::layout;

use crate::filter::DefaultAction;
use crate::imports::{Functions, Imports};
use crate::policy::{Danger, Origin, Policy, Widening};
use crate::schema::filesystem_name;
use crate::sections::{FileData, MemoryExceeded, all_host_functions};
use crate::units::{format_duration, format_size};

impl Policy {
    /// What the policy means, section by section, with the reason of every seccomp rule.
    pub fn explain(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_explanation(&mut text);
        text
    }

    fn write_explanation(&self, out: &mut String) -> std::fmt::Result {
        let origin = match self.origin() {
            Origin::Builtin => "built in",
            Origin::File(_) => "file",
        };
        write!(out, "policy {} ({origin}", self.name())?;
        if let Some(base) = self.extends() {
            write!(out, ", extends {base}")?;
        }
        writeln!(out, ")")?;
        if let Some(description) = self.description() {
            writeln!(out, "  {description}")?;
        }
        for Danger { policy, reason, widened } in self.dangers() {
            writeln!(out, "  MAY WIDEN what it extends ({policy}): {reason}")?;
            for Widening { key, value, was } in widened {
                writeln!(out, "    {key} = {value}, instead of {was}")?;
            }
            if widened.is_empty() {
                writeln!(out, "    it widens nothing; remove allow_dangerous and dangerous_reason")?;
            }
        }

        let seccomp = self.seccomp();
        writeln!(out, "\nsystem calls that an instance may make")?;
        for rule in &seccomp.allow {
            writeln!(out, "  {rule}\n      {} ({})", rule.why, rule.at)?;
        }
        let refused = match seccomp.default_action {
            DefaultAction::Trap => "is refused: the instance dies of SIGSYS and the report names the call",
            DefaultAction::Kill => "kills the instance at once; the report cannot name the call",
            DefaultAction::Fail => "fails",
        };
        writeln!(out, "  every other call {refused}")?;

        writeln!(out, "\nlayers")?;
        for (bit, name) in layer::ALL {
            let state = match (self.layers() & bit != 0, self.required() & bit != 0) {
                (true, true) => "on, required",
                (true, false) => "on where the host has it",
                (false, _) => "OFF",
            };
            writeln!(out, "  {name:<23} {state}")?;
        }

        let limits = self.limits();
        let unlimited = || "unlimited".to_owned();
        let exceeded = match limits.memory_exceeded {
            MemoryExceeded::Fail => "memory.grow answers -1 beyond it",
            MemoryExceeded::Kill => "a growth beyond it ends the job",
        };
        writeln!(out, "\nlimits")?;
        writeln!(out, "  memory      {} ({exceeded})", format_size(limits.memory))?;
        writeln!(out, "  wall time   {}", limits.wall_time.map_or_else(unlimited, format_duration))?;
        writeln!(out, "  CPU time    {}", limits.cpu_time.map_or_else(unlimited, format_duration))?;
        writeln!(out, "  stack       {}", format_size(limits.stack))?;
        writeln!(out, "  output      {}", limits.output.map_or_else(unlimited, format_size))?;
        writeln!(out, "  host calls  {}", limits.host_calls.map_or_else(unlimited, |n| n.to_string()))?;
        writeln!(out, "  fuel        {}", limits.fuel.map_or_else(unlimited, |n| n.to_string()))?;
        writeln!(out, "  open files  {}", limits.open_files)?;

        let wasi = self.wasi();
        let given = |granted: bool| if granted { "given" } else { "withheld" };
        writeln!(out, "\nWASI")?;
        writeln!(out, "  filesystem  {}", filesystem_name(wasi.filesystem))?;
        writeln!(
            out,
            "  clocks      {}, in steps of {}",
            given(wasi.clocks),
            format_duration(wasi.clock_resolution)
        )?;
        writeln!(out, "              the monotonic one begins at {}", format_duration(wasi.monotonic_base))?;
        if let Some(seed) = wasi.random_seed {
            writeln!(out, "  random      always from seed {seed}")?;
        }
        if wasi.deterministic {
            writeln!(out, "  every run with the same input is the same")?;
        }
        for (name, granted) in [
            ("random", wasi.random),
            ("sockets", wasi.sockets),
            ("stdio", wasi.stdio),
            ("arguments", wasi.args),
            ("environment", wasi.env),
        ] {
            writeln!(out, "  {name:<11} {}", given(granted))?;
        }

        match self.fs().data {
            FileData::Supervisor => writeln!(out, "  file data   through the supervisor")?,
            FileData::Direct => writeln!(
                out,
                "  file data   direct: at most {} descriptors of regular files that the guest has opened",
                layout::DIRECT_FDS
            )?,
        }

        let allowed: Vec<_> =
            all_host_functions().filter(|function| self.allows_host_call(*function)).collect();
        writeln!(out, "\nhost calls: {} of {}", allowed.len(), FUNCTIONS.len())?;
        for function in allowed {
            writeln!(out, "  {}", function.declaration().name)?;
        }
        match self.imports() {
            Imports::All => writeln!(out, "  functions that the host app provides may be called")?,
            none if none.is_none() => {
                writeln!(out, "  functions that the host app provides may not be called")?
            }
            Imports::Of(interfaces) => {
                writeln!(out, "  of the functions that the host app provides these may be called")?;
                for (interface, functions) in interfaces {
                    match functions {
                        Functions::All => writeln!(out, "    {interface}: all")?,
                        Functions::Named(names) => {
                            let names: Vec<&str> = names.iter().map(String::as_str).collect();
                            writeln!(out, "    {interface}: {}", names.join(", "))?;
                        }
                    }
                }
            }
        }
        if let Some(init) = &self.instance().init {
            writeln!(out, "\ninstances begin where the export {init:?} has ended, which runs once")?;
        }
        Ok(())
    }
}
