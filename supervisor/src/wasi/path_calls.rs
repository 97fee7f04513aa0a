//! The calls that take names: what they check, and in which order, before the kernel acts.

use std::os::fd::AsFd;

use nix::fcntl::{AtFlags, readlinkat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::descriptors::Descriptor;
use super::directories::{OpenOptions, Opened};
use super::errno::Errno;
use super::metadata::{self, NewTimes};
use super::paths::{Place, TrailingSlash, locate, read_path};
use super::rights::GivenUp;
use super::types::{fdflags, flags16, follows_symlinks, fstflags, oflags, rights};
use super::{WasiContext, write_count};
use crate::hostcall::HostCall;

impl WasiContext {
    pub(super) fn path_create_directory(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let directory = self.table.directory(call.value32(0))?;
        let path = read_path(call.region(1))?;
        directory.check_writable()?;
        let place = Place::resolve(directory.as_fd(), &path, TrailingSlash::Ignored)?;
        Ok(mkdirat(place.directory(), place.name(), Mode::from_bits_truncate(0o777))?)
    }

    pub(super) fn path_filestat_get(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let follow = follows_symlinks(call.value32(1))?;
        let directory = self.table.directory(call.value32(0))?;
        let path = read_path(call.region(2))?;
        let stat = metadata::stat_at(directory.as_fd(), &path, follow, &self.identities)?;
        call.region(3).write(0, &stat.to_bytes());
        Ok(())
    }

    pub(super) fn path_filestat_set_times(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let follow = follows_symlinks(call.value32(1))?;
        let flags = flags16(call.value32(5), fstflags::ALL)?;
        let times = NewTimes::parse(call.value(3), call.value(4), flags)?;
        let directory = self.table.directory(call.value32(0))?;
        let path = read_path(call.region(2))?;
        directory.check_writable()?;
        times.set(locate(directory.as_fd(), &path, follow)?.as_fd())
    }

    pub(super) fn path_link(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let follow = follows_symlinks(call.value32(1))?;
        let (old_directory, new_directory) =
            (self.table.directory(call.value32(0))?, self.table.directory(call.value32(3))?);
        let (old_path, new_path) = (read_path(call.region(2))?, read_path(call.region(4))?);
        old_directory.check_writable()?;
        new_directory.check_writable()?;
        if follow {
            return Err(Errno::Invalid);
        }
        let old = Place::resolve(old_directory.as_fd(), &old_path, TrailingSlash::IsDirectory)?;
        let new = Place::resolve(new_directory.as_fd(), &new_path, TrailingSlash::IsDirectory)?;
        // Without AT_SYMLINK_FOLLOW a symbolic link is itself what gets a second name.
        Ok(linkat(old.directory(), old.name(), new.directory(), new.name(), AtFlags::empty())?)
    }

    pub(super) fn path_open(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let options = OpenOptions {
            follow: follows_symlinks(call.value32(1))?,
            oflags: flags16(call.value32(3), oflags::ALL)?,
            rights: call.value(4),
            fdflags: flags16(call.value32(6), fdflags::ALL)?,
        };
        if (call.value(4) | call.value(5)) & !rights::ALL != 0 {
            return Err(Errno::Invalid);
        }
        self.opened_to_write |= options.writable();
        let path = read_path(call.region(2))?;
        let directory = match self.table.get(call.value32(0))? {
            Descriptor::Directory(directory) => directory,
            Descriptor::File(_) => return Err(Errno::NotDirectory),
            Descriptor::Input(_)
            | Descriptor::Output(_)
            | Descriptor::Listener(_)
            | Descriptor::Connection(_) => return Err(Errno::BadDescriptor),
        };
        let inherited = self.table.given_up(call.value32(0)).inherited();
        inherited.check(call.value(4) | call.value(5))?;
        // Before the open, which may create or truncate.
        self.table.check_room()?;
        let (opened, without) = match directory.open(&path, options)? {
            Opened::Directory(directory) => (Descriptor::Directory(directory), 0),
            // To create or truncate it is opened for writing, whether the guest asked for that right or not.
            Opened::File(file) => (Descriptor::File(file), rights::FD_WRITE & !options.rights),
        };
        let number = self.table.insert(opened)?;
        self.table.give_up(number, inherited);
        if options.writable() {
            self.table.give_up(number, GivenUp { base: without, inheriting: without });
        }
        call.region(7).write(0, &number.to_le_bytes());
        self.opened = number;
        Ok(())
    }

    pub(super) fn path_readlink(&self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let directory = self.table.directory(call.value32(0))?;
        let path = read_path(call.region(1))?;
        let place = Place::resolve(directory.as_fd(), &path, TrailingSlash::IsDirectory)?;
        let target = readlinkat(place.directory(), place.name())?;
        let target = target.into_string().map_err(|_| Errno::IllegalSequence)?;
        if target.starts_with('/') {
            // It would tell about the host, and cannot be followed anyway.
            return Err(Errno::NotPermitted);
        }
        let count = call.region(2).write(0, target.as_bytes());
        write_count(call.region(3), count);
        Ok(count)
    }

    pub(super) fn path_remove(&self, call: &HostCall<'_>, what: UnlinkatFlags) -> Result<(), Errno> {
        let directory = self.table.directory(call.value32(0))?;
        let path = read_path(call.region(1))?;
        directory.check_writable()?;
        let trailing_slash = match what {
            UnlinkatFlags::RemoveDir => TrailingSlash::Ignored,
            UnlinkatFlags::NoRemoveDir => TrailingSlash::IsDirectory,
        };
        let place = Place::resolve(directory.as_fd(), &path, trailing_slash)?;
        Ok(unlinkat(place.directory(), place.name(), what)?)
    }

    pub(super) fn path_rename(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let (old_directory, new_directory) =
            (self.table.directory(call.value32(0))?, self.table.directory(call.value32(2))?);
        let (old_path, new_path) = (read_path(call.region(1))?, read_path(call.region(3))?);
        old_directory.check_writable()?;
        new_directory.check_writable()?;
        let old = Place::resolve(old_directory.as_fd(), &old_path, TrailingSlash::Ignored)?;
        let new = Place::resolve(new_directory.as_fd(), &new_path, TrailingSlash::Ignored)?;
        let slash = if old_path.ends_with('/') || new_path.ends_with('/') { "/" } else { "" };
        // With a slash the kernel demands a directory; renameat(2) never follows the last component.
        let old_name = format!("{}{slash}", old.name());
        Ok(renameat(old.directory(), old_name.as_str(), new.directory(), new.name())?)
    }

    pub(super) fn path_symlink(&self, call: &HostCall<'_>) -> Result<(), Errno> {
        let directory = self.table.directory(call.value32(1))?;
        let (target, path) = (read_path(call.region(0))?, read_path(call.region(2))?);
        directory.check_writable()?;
        if target.starts_with('/') {
            // We would not follow it, but another program that finds it might.
            return Err(Errno::NotPermitted);
        }
        let place = Place::resolve(directory.as_fd(), &path, TrailingSlash::IsDirectory)?;
        Ok(symlinkat(target.as_str(), place.directory(), place.name())?)
    }
}
