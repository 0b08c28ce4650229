//! Three nodes that are one broker, with a balancer in front of them.
//!
//! Separate because rows are played on one node but for those that take nodes away. `amqp.url` is one address, as a
//! balancer's or a DNS name's in front of a real cluster is; the balancer here gives each connection to the next node that
//! takes it. It says nothing about queues, but for who leads one.

use std::sync::Arc;
use std::thread;

use crate::broker::Broker;
use crate::proxy::Proxy;

/// A node by its place.
pub(crate) type Place = usize;

pub(crate) struct Cluster {
    /// The first one is dropped last: the others use its epmd.
    others: [Broker; 2],
    first: Arc<Broker>,
    names: [String; 3],
    balancer: Proxy,
}

impl Cluster {
    pub(crate) const PLACES: [Place; 3] = [0, 1, 2];

    /// Starts two more nodes.
    pub(crate) fn around(first: &Arc<Broker>) -> Result<Self, String> {
        let others = [first.join()?, first.join()?];
        let nodes = [&**first, &others[0], &others[1]];
        let names = nodes.map(|node| node.ctl(&["eval", "node()."]).trim().trim_matches('\'').to_owned());
        let balancer = Proxy::to(&nodes.map(Broker::address)).map_err(|error| error.to_string())?;
        Ok(Self {
            first: first.clone(),
            others,
            names,
            balancer,
        })
    }

    /// What the workers are given.
    pub(crate) fn url(&self) -> String {
        let (direct, balanced) = (self.first.address(), self.balancer.address());
        self.first.url().replace(&direct.to_string(), &balanced.to_string())
    }

    /// One node, without the balancer.
    pub(crate) fn direct(&self, place: Place) -> String {
        self.node(place).url().to_owned()
    }

    /// Where the leader of a queue is, as any node that runs sees it.
    pub(crate) fn leader(&self, queue: &str) -> Result<Place, String> {
        let listing = self.first.ctl(&["list_queues", "name", "leader", "--no-table-headers"]);
        let of = |line: &str| {
            line.split_once('\t')
                .filter(|(name, _)| *name == queue)
                .map(|(_, leader)| leader.to_owned())
        };
        let leader = listing.lines().find_map(of);
        let place = self.names.iter().position(|name| Some(name) == leader.as_ref());
        place.ok_or_else(|| format!("{queue} has no leader among {:?}: {leader:?}", self.names))
    }

    /// `kill -9` of these nodes at once.
    pub(crate) fn kill(&self, places: &[Place]) {
        self.all(places, Broker::kill);
    }

    /// Starts them again, at once.
    pub(crate) fn restart(&self, places: &[Place]) {
        self.all(places, Broker::restart);
    }

    fn node(&self, place: Place) -> &Broker {
        let other = place.checked_sub(1).and_then(|other| self.others.get(other));
        other.unwrap_or(&self.first)
    }

    fn all(&self, places: &[Place], act: impl Fn(&Broker) + Sync) {
        let act = &act;
        thread::scope(|scope| {
            for place in places {
                scope.spawn(move || act(self.node(*place)));
            }
        });
    }
}
