//! A TCP proxy on loopback that can stop forwarding while every connection stays open: a black hole.
//!
//! Separate from the rows because a network that swallows what is sent cannot be had from the broker or the worker: a
//! frozen broker still has a kernel that answers. What arrives meanwhile is kept, as a sender's kernel would keep it, and
//! forwarded afterwards. It may have several servers, as a balancer in front of a cluster has, and a word that springs it
//! like a trap. Otherwise it looks into no byte, and it loses none and invents none.

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
    /// Forwards connections from now on, each to the next of the servers that takes it.
    pub(crate) fn to(servers: &[SocketAddr]) -> io::Result<Self> {
        Self::start(servers, None)
    }

    /// Forwards connections to `server` until a client says `word`: from then on nothing passes, the word included.
    pub(crate) fn trap(server: SocketAddr, word: &'static str) -> io::Result<Self> {
        Self::start(&[server], Some(word))
    }

    fn start(servers: &[SocketAddr], word: Option<&'static str>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let gate = Arc::new(Gate::default());
        let accepting = gate.clone();
        let mut servers = servers.to_vec();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.is_ended() {
                    return;
                }
                servers.rotate_left(1);
                let (gate, servers) = (accepting.clone(), servers.clone());
                thread::spawn(move || serve(&client, &servers, &gate, word));
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

    /// Whether its word was said, or somebody else closed it.
    pub(crate) fn is_swallowing(&self) -> bool {
        *self.gate.state.lock().unwrap_or_else(PoisonError::into_inner) == State::Swallowing
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

fn serve(client: &TcpStream, servers: &[SocketAddr], gate: &Arc<Gate>, word: Option<&'static str>) {
    if !gate.pass() {
        return;
    }
    let Some(server) = servers.iter().find_map(|server| TcpStream::connect(server).ok()) else {
        return;
    };
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let there = gate.clone();
    let forth = thread::spawn(move || copy(from, to, &there, word));
    if let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) {
        copy(from, to, gate, None);
    }
    let _ended = forth.join();
}

/// Copies until either end closes, and then closes both ways of both.
fn copy(mut from: TcpStream, mut to: TcpStream, gate: &Gate, word: Option<&'static str>) {
    let mut bytes = vec![0; 64 * 1024];
    // What came before, as far as a word may begin in it.
    let mut heard = Vec::new();
    while gate.pass() {
        let Ok(count @ 1..) = from.read(&mut bytes) else { break };
        let Some(read) = bytes.get(..count) else { break };
        if let Some(word) = word {
            heard.extend_from_slice(read);
            if heard.windows(word.len()).any(|said| said == word.as_bytes()) {
                gate.set(State::Swallowing);
            }
            heard.drain(..heard.len().saturating_sub(word.len() - 1));
        }
        if !gate.pass() {
            break;
        }
        if to.write_all(read).is_err() {
            break;
        }
    }
    for end in [&from, &to] {
        let _closed = end.shutdown(Shutdown::Both);
    }
}
