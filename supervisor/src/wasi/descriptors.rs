//! The descriptor table of a guest.

use std::collections::BTreeSet;

use ipc::nospec;

use super::directories::OpenDirectory;
use super::errno::Errno;
use super::files::OpenFile;
use super::streams::Stream;

/// What a descriptor stands for.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// Standard input.
    Input(Stream),
    /// Standard output or standard error.
    Output(Stream),
    /// A directory.
    Directory(OpenDirectory),
    /// A regular file.
    File(OpenFile),
}

/// Descriptors by number. Numbers are given as Wasmtime gives them: the highest free one below the highest in
/// use, else the next.
#[derive(Debug)]
pub(super) struct Descriptors {
    slots: Vec<Option<Descriptor>>,
    /// The empty slots.
    free: BTreeSet<u32>,
    max: u32,
    /// How many there were before the guest ran.
    given: u32,
    /// Those of them that are closed or stand for something else.
    lost: BTreeSet<u32>,
}

impl Descriptors {
    /// A table for at most `max` descriptors.
    pub fn new(max: u32) -> Self {
        Self { slots: Vec::new(), free: BTreeSet::new(), max, given: 0, lost: BTreeSet::new() }
    }

    /// The most that were in use at one time.
    pub fn most(&self) -> u32 {
        // A new slot is made only when all are in use; there are never more than `max`.
        self.slots.len() as u32
    }

    /// Fails if [`insert`](Self::insert) would: for operations that must not happen in vain.
    pub fn check_room(&self) -> Result<(), Errno> {
        // There are never more slots than `max`, so both lengths fit.
        let used = self.slots.len() - self.free.len();
        if used < self.max as usize { Ok(()) } else { Err(Errno::TooManyHandles) }
    }

    /// Gives a descriptor a number.
    pub fn insert(&mut self, descriptor: Descriptor) -> Result<u32, Errno> {
        self.check_room()?;
        if let Some(number) = self.free.pop_last() {
            if let Some(slot) = self.slots.get_mut(number as usize) {
                *slot = Some(descriptor);
            }
            return Ok(number);
        }
        self.slots.push(Some(descriptor));
        Ok(self.slots.len() as u32 - 1)
    }

    /// Takes what is in the table for what the guest is given, before it runs.
    pub fn given(&mut self) {
        self.given = self.slots.len() as u32;
    }

    /// Numbers that do not stand for what they stood for when the guest began: it has opened or closed them.
    pub fn changed(&self) -> Vec<u32> {
        let opened = (0..).zip(&self.slots).skip(self.given as usize);
        let opened = opened.filter(|(_, slot)| slot.is_some()).map(|(number, _)| number);
        self.lost.iter().copied().chain(opened).collect()
    }

    fn lose(&mut self, number: u32) {
        if number < self.given {
            self.lost.insert(number);
        }
    }

    /// The slot of a number that the guest gave. Guests may try any number as often as they like, so this is a bounds check that
    /// can be trained.
    fn index(&self, number: u32) -> Result<usize, Errno> {
        let number = number as usize;
        if number >= self.slots.len() {
            return Err(Errno::BadDescriptor);
        }
        Ok(nospec::below(number, self.slots.len()))
    }

    /// The descriptor with that number.
    pub fn get(&self, number: u32) -> Result<&Descriptor, Errno> {
        self.slots.get(self.index(number)?).and_then(Option::as_ref).ok_or(Errno::BadDescriptor)
    }

    /// The descriptor with that number.
    pub fn get_mut(&mut self, number: u32) -> Result<&mut Descriptor, Errno> {
        let index = self.index(number)?;
        self.slots.get_mut(index).and_then(Option::as_mut).ok_or(Errno::BadDescriptor)
    }

    /// The descriptor with that number, if it is a regular file.
    pub fn file(&self, number: u32) -> Result<&OpenFile, Errno> {
        match self.get(number)? {
            Descriptor::File(file) => Ok(file),
            _ => Err(Errno::BadDescriptor),
        }
    }

    /// The descriptor with that number, if it is a regular file.
    pub fn file_mut(&mut self, number: u32) -> Result<&mut OpenFile, Errno> {
        match self.get_mut(number)? {
            Descriptor::File(file) => Ok(file),
            _ => Err(Errno::BadDescriptor),
        }
    }

    /// The descriptor with that number, if it has a position: a pipe is not seekable, a directory not a file.
    pub fn seekable(&mut self, number: u32) -> Result<&mut OpenFile, Errno> {
        match self.get_mut(number)? {
            Descriptor::File(file) => Ok(file),
            Descriptor::Input(_) | Descriptor::Output(_) => Err(Errno::NotSeekable),
            Descriptor::Directory(_) => Err(Errno::BadDescriptor),
        }
    }

    /// The descriptor with that number, if it is a directory.
    pub fn directory(&self, number: u32) -> Result<&OpenDirectory, Errno> {
        match self.get(number)? {
            Descriptor::Directory(directory) => Ok(directory),
            _ => Err(Errno::BadDescriptor),
        }
    }

    /// Takes a descriptor out of the table.
    pub fn remove(&mut self, number: u32) -> Result<Descriptor, Errno> {
        let index = self.index(number)?;
        let taken = self.slots.get_mut(index).and_then(Option::take).ok_or(Errno::BadDescriptor)?;
        self.free.insert(number);
        self.lose(number);
        Ok(taken)
    }

    /// Moves a descriptor to a number in use, whose descriptor is closed.
    pub fn renumber(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        self.get(from)?;
        self.get(to)?;
        if from != to {
            let moved = self.remove(from)?;
            *self.get_mut(to)? = moved;
            self.lose(to);
        }
        Ok(())
    }
}
