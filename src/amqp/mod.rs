//! The broker: what is in it, how it is reached, and how a message is taken and handed over without being lost.
//!
//! Nothing in here decodes a body, and only `publisher` publishes.

mod acknowledger;
mod connection;
mod consumer;
mod dead;
mod delay;
mod delivery;
mod headers;
mod management;
mod publisher;
mod quorum;
mod replies;
mod session;
mod topology;
mod trial;

pub use self::acknowledger::Settled;
pub use self::connection::{Broker, ConnectError};
pub use self::consumer::{Pace, Paces};
pub use self::dead::Held;
pub use self::delay::MAX_DELAY;
pub use self::delivery::{Delivery, Queue, ReplyTo};
pub use self::headers::{Headers, died_of, published_at};
pub use self::management::{Comparison, ManagementError};
pub use self::publisher::{Destination, PublishError, Publisher};
pub use self::replies::Replies;
pub use self::session::Parts;
pub use self::topology::{Names, Topology};
pub use self::trial::Greeting;
