//! The calls of sockets: what they check before the kernel acts.

use super::descriptors::Descriptor;
use super::errno::Errno;
use super::sockets::Connection;
use super::types::{fdflags, flags16, recvflags};
use super::{WasiContext, write_count};
use crate::hostcall::HostCall;

impl WasiContext {
    fn connection(&mut self, number: u32) -> Result<&mut Connection, Errno> {
        self.used_sockets = true;
        match self.table.get_mut(number)? {
            Descriptor::Connection(connection) => Ok(connection),
            Descriptor::Listener(_) => Err(Errno::NotConnected),
            _ => Err(Errno::NotSocket),
        }
    }

    pub(super) async fn sock_accept(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        let number = call.value32(0);
        let flags = flags16(call.value32(1), fdflags::ALL)?;
        self.used_sockets = true;
        // Before there is a connection, which could only be closed again.
        self.table.get(number)?;
        self.table.check_room()?;
        let connection = match self.table.get_mut(number)? {
            Descriptor::Listener(listener) => listener.accept(flags).await?,
            Descriptor::Connection(_) => return Err(Errno::Invalid),
            _ => return Err(Errno::NotSocket),
        };
        let inherited = self.table.given_up(number).inherited();
        let accepted = self.table.insert(Descriptor::Connection(connection))?;
        self.table.give_up(accepted, inherited);
        call.region(2).write(0, &accepted.to_le_bytes());
        Ok(())
    }

    pub(super) async fn sock_recv(&mut self, call: &HostCall<'_>) -> Result<usize, Errno> {
        let flags = flags16(call.value32(2), recvflags::ALL)?;
        let (count, truncated) = self.connection(call.value32(0))?.receive(call.region(1), flags).await?;
        write_count(call.region(3), count);
        let flags = if truncated { recvflags::TRUNCATED } else { 0 };
        call.region(4).write(0, &flags.to_le_bytes());
        Ok(count)
    }

    pub(super) async fn sock_send(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        if call.value32(2) != 0 {
            return Err(Errno::Invalid);
        }
        let count = self.connection(call.value32(0))?.send(call.region(1)).await?;
        write_count(call.region(3), count);
        Ok(())
    }

    pub(super) fn sock_shutdown(&mut self, call: &HostCall<'_>) -> Result<(), Errno> {
        self.connection(call.value32(0))?.shutdown(call.value32(1))
    }
}
