//! G1: what each node's disk has held durably, read from the blocks of its log as they become durable, and from what a
//! restart found. No word of the machines is believed.
//!
//! An acknowledged version, and a version that a quorum read returned, must have been durable on a write quorum of the
//! slot's replicas: that newer versions have replaced it there since does not matter, and no crash may take it back. Of a
//! batch whose write a crash cut off only what the restart found on top is counted: a replica that has forgotten says no
//! more of the rest.

use ringcore::types::Version;
use std::collections::{BTreeMap, BTreeSet};

/// Of each node: the versions of each key that its disk has held.
pub(crate) struct DurableImages {
    nodes: Vec<BTreeMap<Vec<u8>, BTreeSet<Version>>>,
}

impl DurableImages {
    pub(crate) fn new(nodes: usize) -> DurableImages {
        DurableImages { nodes: vec![BTreeMap::new(); nodes] }
    }

    /// A version is durable on a node's disk.
    pub(crate) fn holds(&mut self, node: usize, key: &[u8], version: Version) {
        match self.nodes[node].get_mut(key) {
            Some(versions) => drop(versions.insert(version)),
            None => drop(self.nodes[node].insert(key.to_vec(), BTreeSet::from([version]))),
        }
    }

    /// Has the node's disk held the version?
    pub(crate) fn has_held(&self, node: usize, key: &[u8], version: Version) -> bool {
        self.nodes[node].get(key).is_some_and(|held| held.contains(&version))
    }

    /// Those of the nodes whose disk has held the version.
    pub(crate) fn holders(&self, key: &[u8], version: Version, nodes: &[usize]) -> Vec<usize> {
        nodes.iter().copied().filter(|node| self.has_held(*node, key, version)).collect()
    }
}
