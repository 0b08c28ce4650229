//! A TCP proxy on loopback that can stop forwarding while every connection stays open: a black hole.
//!
//! Separate from the rows because a network that swallows what is sent cannot be had from the broker or the worker: a
//! frozen broker still has a kernel that answers. What arrives meanwhile is kept, as a sender's kernel would keep it, and
//! forwarded afterwards. It looks into no byte, loses none and invents none.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// A way to one server. Its connections end with it.
pub(crate) struct Proxy {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Swallowing,
    Ended,
}

impl Proxy {
    /// Forwards connections to `server` from now on.
    pub(crate) fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let gate = Arc::new(Gate::default());
        let accepting = gate.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.is_ended() {
                    return;
                }
                let gate = accepting.clone();
                thread::spawn(move || serve(&client, server, &gate));
            }
        });
        Ok(Self { address, gate })
    }

    /// Where to connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more, in either direction; new connections are taken and not served.
    pub(crate) fn swallow(&self) {
        self.gate.set(State::Swallowing);
    }

    /// Everything passes again.
    pub(crate) fn forward(&self) {
        self.gate.set(State::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.gate.set(State::Ended);
        // Wakes the thread that accepts.
        let _woken = TcpStream::connect(self.address);
    }
}

impl Gate {
    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }

    fn is_ended(&self) -> bool {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Ended
    }

    /// Waits while nothing may pass; `false` where nothing ever will.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self
            .changed
            .wait_while(state, |state| *state == State::Swallowing)
            .unwrap_or_else(PoisonError::into_inner);
        *state == State::Open
    }
}

fn serve(client: &TcpStream, server: SocketAddr, gate: &Arc<Gate>) {
    if !gate.pass() {
        return;
    }
    let Ok(server) = TcpStream::connect(server) else { return };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let there = gate.clone();
    let forth = thread::spawn(move || copy(from, to, &there));
    if let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) {
        copy(from, to, gate);
    }
    let _ended = forth.join();
}

/// Copies until either end closes, and then closes both ways of both.
fn copy(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut bytes = vec![0; 64 * 1024];
    while gate.pass() {
        let Ok(count @ 1..) = from.read(&mut bytes) else { break };
        if !gate.pass() {
            break;
        }
        let Some(read) = bytes.get(..count) else { break };
        if to.write_all(read).is_err() {
            break;
        }
    }
    for end in [&from, &to] {
        let _closed = end.shutdown(Shutdown::Both);
    }
}
