//! The floor: take a message, make its call, acknowledge it, and nothing else.
//!
//! A process of its own, so that its CPU can be told from the harness's. The same client libraries as the worker's below all
//! features: lapin for the broker, hyper's bare connections for HTTP. It decodes nothing (the body is the request), resolves,
//! retries, counts and remembers nothing, and one failure ends it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_millis(200);

/// What it works on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    broker: String,
    #[arg(long)]
    queue: String,
    /// `http://HOST:PORT`
    #[arg(long)]
    server: String,
    #[arg(long)]
    prefetch: u16,
    /// Threads of the runtime; 1 is one that runs on the main thread.
    #[arg(long)]
    threads: usize,
}

/// Consumes until SIGTERM.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut builder = match args.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(args.threads).enable_all().build()?;
    runtime.block_on(consume(args))
}

async fn consume(args: Args) -> Result<(), Failure> {
    let connection = Connection::connect(&args.broker, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(args.prefetch, BasicQosOptions::default()).await?;
    let mut consumer = channel
        .basic_consume(
            args.queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let pool = Arc::new(Pool::new(&args.server));
    let mut stop = signal(SignalKind::terminate())?;
    println!("consuming");
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.ok_or("the consumer ended")??,
            _ = stop.recv() => break,
        };
        let pool = pool.clone();
        tokio::spawn(async move {
            let done = async {
                pool.call(delivery.data.into()).await?;
                // Here and not in the loop, where waiting for it holds up the next delivery.
                delivery.acker.ack(BasicAckOptions::default()).await?;
                Ok::<_, Failure>(())
            };
            if let Err(error) = done.await {
                eprintln!("floor: {error}");
                std::process::exit(1);
            }
        });
    }
    // The harness stops it once every call was answered; what is left are acknowledgements.
    tokio::time::sleep(LAST_ACKNOWLEDGEMENTS).await;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// Connections that are idle; the one used last is used next.
struct Pool {
    host: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Pool {
    fn new(server: &str) -> Self {
        Self {
            host: server.trim_start_matches("http://").to_owned(),
            idle: Mutex::default(),
        }
    }

    async fn call(&self, body: Bytes) -> Result<(), Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::post("/v1.0/card/instances/createAndDeliver")
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let answer = connection.send_request(request).await?;
        if answer.status() != 200 {
            return Err(format!("HTTP {}", answer.status()).into());
        }
        answer.into_body().collect().await?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(())
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = TcpStream::connect(&self.host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
