//! What a MAC mask list holds and answers, as the specification and our decisions have it. The
//! other target's list cannot be asked: beyond its first entry it finds, keeps and deletes wrongly.

use aoede_e2e::corpus::{INITIATOR, Step};

use crate::{
    exchange::{Exchange, SILENCE, one},
    side::Answer,
};

/// Entries that a response at MTU 1500 has room for.
const MOST: usize = (1500 + 14 - 28) / 8;

/// The right answer to a step of a case that began with an empty list.
pub(crate) fn answer(exchange: &Exchange<'_>) -> Answer {
    let mut list = Vec::new();
    let mut last = SILENCE;
    for step in exchange.case.steps.iter().take(exchange.step + 1) {
        last = serve(&mut list, exchange, step);
    }
    last
}

fn serve(list: &mut Vec<[u8; 6]>, exchange: &Exchange<'_>, step: &Step) -> Answer {
    let byte = |offset: usize| step.frame.get(offset).copied().unwrap_or(0);
    let source: [u8; 6] = step
        .frame
        .get(6..12)
        .and_then(|mac| mac.try_into().ok())
        .unwrap_or(INITIATOR);
    let sub_command = byte(25);
    let admitted = list.is_empty() || list.contains(&source);
    let wildcard = byte(18) == 0xFF;
    if byte(19) != 2 || !admitted || (wildcard && sub_command != 0) {
        return SILENCE;
    }
    let mut response = Exchange {
        case: exchange.case,
        scene: exchange.scene,
        identity: exchange.identity,
        step: exchange
            .case
            .steps
            .iter()
            .position(|other| std::ptr::eq(other, step))
            .unwrap_or(exchange.step),
    }
    .echo(0x08, 0);
    response.truncate(24);
    let directives: Vec<(u8, [u8; 6])> = step
        .frame
        .get(28..)
        .unwrap_or(&[])
        .chunks_exact(8)
        .take(usize::from(byte(27)))
        .filter_map(|bytes| Some((*bytes.get(1)?, bytes.get(2..)?.try_into().ok()?)))
        .collect();
    let edited = match sub_command {
        0 => Ok(list.clone()),
        1 if directives.len() == usize::from(byte(27)) => edit(list, &directives),
        _ => {
            response.splice(14..16, [0x1C, 2]);
            response.extend([0, sub_command, 0, 0]);
            return one(padded(response));
        }
    };
    match edited {
        Ok(edited) => {
            *list = edited;
            let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
            response.extend([0, sub_command, 0, count]);
            for mac in list {
                response.extend([0, 0]);
                response.extend(mac.iter());
            }
        }
        Err((index, error)) => response.extend([0, sub_command, error, index]),
    }
    one(padded(response))
}

/// The list after all directives, or the place and kind of the first that cannot be carried out.
fn edit(list: &[[u8; 6]], directives: &[(u8, [u8; 6])]) -> Result<Vec<[u8; 6]>, (u8, u8)> {
    let mut list = list.to_vec();
    for (&(code, mac), index) in directives.iter().zip(0..) {
        let [first, ..] = mac;
        match code {
            0 => {}
            1 if first & 1 == 1 || mac == [0; 6] => return Err((index, 2)),
            1 if list.contains(&mac) => {}
            1 if list.len() == MOST => return Err((index, 3)),
            1 => list.push(mac),
            2 => list.retain(|&other| other != mac),
            _ => return Err((index, 2)),
        }
    }
    Ok(list)
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    let len = frame.len().max(60);
    frame.resize(len, 0);
    frame
}
