//! How a node becomes a member: it asks the members that it was told of, one after the other, until one has it decided.
//! What it is told is kept in the JOIN file before the directory becomes that member's.

use super::executor::CoreContext;
use super::names::resolve;
use super::net::Stream;
use super::node::{NodeConfig, NodeError};
use crate::rpc::peer::join::{JoinError, ask};
use crate::storage::disk::Disk;
use crate::storage::join_file::{self, JoinFile};
use crate::types::join::{JoinRequest, Joined, Nonce};
use crate::types::{ClusterId, MemberId};
use futures_util::future::{Either, select};
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

/// Until a connection is made.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Until an answer: a change that is under way is waited for there.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Between two rounds of asking.
const PAUSE: Duration = Duration::from_millis(500);
/// Members that are asked in one round, at most: those named, and voters that they name.
const ASKED_MAX: usize = 128;
/// Rounds without an answer before this is told of; then every so many.
const SILENT_ROUNDS: u64 = 10;

/// Asks until this node is a member, or is refused. Returns which.
pub(super) async fn join<D: Disk>(
    disk: &D,
    config: &NodeConfig,
    peers: &[String],
    context: &CoreContext,
) -> Result<(ClusterId, MemberId), NodeError> {
    let mut file = match join_file::find(disk).await.map_err(crate::storage::data_dir::DataDirError::from)? {
        Some(file) => file,
        None => {
            let mut nonce = [0; 16];
            super::node::fill_random(&mut nonce)?;
            let file = JoinFile { nonce, joined: None };
            write(disk, &file).await?;
            file
        }
    };
    let request = JoinRequest {
        cluster: None,
        nonce: Nonce(file.nonce),
        name: config.name.clone(),
        zone: config.zone.clone(),
        weight_percent: 100,
        addresses: config.advertise.clone(),
    };
    for round in 0u64.. {
        let mut asked: VecDeque<String> = peers.iter().cloned().collect();
        let mut count = 0;
        let mut last = String::from("none of them answers");
        while let Some(peer) = asked.pop_front()
            && count < ASKED_MAX
        {
            count += 1;
            match ask_one(&peer, request.clone(), context).await {
                Ok(Joined::Member { cluster, member, epoch }) => {
                    file.joined = Some((member, epoch.to_vec()));
                    write(disk, &file).await?;
                    tracing::info!(%cluster, member = member.0, by = peer, "joined");
                    return Ok((cluster, member));
                }
                Ok(Joined::AskVoters { addresses }) => {
                    asked.extend(addresses.into_iter().filter(|address| !peers.contains(address)));
                }
                Err(JoinError::Refused(why)) => return Err(NodeError::JoinRefused { peer, why }),
                Err(JoinError::Later(why)) => last = format!("{peer}: {why}"),
            }
        }
        if round % SILENT_ROUNDS == SILENT_ROUNDS - 1 {
            tracing::warn!(peers = peers.join(","), why = last, "not joined yet");
        }
        context.ticker.sleep(PAUSE).await;
    }
    unreachable!("rounds have no end")
}

async fn write<D: Disk>(disk: &D, file: &JoinFile) -> Result<(), NodeError> {
    Ok(join_file::write(disk, file).await.map_err(crate::storage::data_dir::DataDirError::from)?)
}

async fn ask_one(peer: &str, request: JoinRequest, context: &CoreContext) -> Result<Joined, JoinError> {
    let later = |error: std::io::Error| JoinError::Later(error.to_string());
    let addresses = resolve(peer.to_owned(), &context.ticker).await.map_err(later)?;
    let address = *addresses.first().ok_or_else(|| JoinError::Later("the name has no address".to_owned()))?;
    let stream = Stream::connect(address, CONNECT_WITHIN, &context.sockets, &context.ticker);
    let answer = ask(stream.await.map_err(later)?, request);
    match select(pin!(answer), pin!(context.ticker.sleep(ANSWER_WITHIN))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(JoinError::Later("no answer".to_owned())),
    }
}
