//! What systemd is told, on a socket like its own.

use std::os::unix::net::UnixDatagram;

use crate::stand::{PATIENCE, Stand};

/// Datagrams up to and with the first that holds the line `wanted`.
fn told_until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let length = socket
            .recv(&mut bytes)
            .unwrap_or_else(|error| panic!("{error} without {wanted} after {told:?}"));
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let found = text.lines().any(|line| line == wanted);
        told.push(text);
        if found {
            return told;
        }
    }
}

#[test]
fn systemd_is_told_when_the_worker_consumes_reloads_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let stand = Stand::new().with_env("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut worker = stand.starting_worker();

    let starting = told_until(&socket, "READY=1");
    assert!(starting[0].starts_with("STATUS=starting"), "{starting:?}");
    assert!(starting.last().unwrap().contains("STATUS=consuming\n"), "{starting:?}");
    worker.wait_for_line("consuming");

    worker.process.hang_up();
    let reloading = told_until(&socket, "RELOADING=1");
    assert!(reloading.last().unwrap().contains("MONOTONIC_USEC="), "{reloading:?}");
    told_until(&socket, "READY=1");

    worker.process.terminate();
    let stopping = told_until(&socket, "STOPPING=1");
    assert!(stopping.last().unwrap().contains("STATUS=draining"), "{stopping:?}");
    assert_eq!(worker.process.wait(PATIENCE).unwrap(), 0);
}
