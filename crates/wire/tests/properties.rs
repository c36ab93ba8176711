//! What must hold for every value and for every string of bytes.

use aoede_wire::{
    Address, Ata, AtaFlags, Body, CoalescedRead, CoalescedReads, CoalescedWrite, CoalescedWrites,
    Command, Config, Crc8x4, Directive, ExtensionTable, Flags, Frame, HEADER_BYTES, Header,
    MIN_FRAME_BYTES, MacAddr, Mask, NoRoom, Reserve, Status, Tag, congestion_id, encode_mask_list,
    encode_reserve_list, trim_ranges,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn flags() -> impl Strategy<Value = Flags> {
    (any::<bool>(), any::<bool>()).prop_map(|(response, error)| {
        let response = if response {
            Flags::RESPONSE
        } else {
            Flags::default()
        };
        if error {
            response | Flags::ERROR
        } else {
            response
        }
    })
}

prop_compose! {
    fn header()(
        (destination, source) in (mac(), mac()),
        version in 0..16_u8,
        flags in flags(),
        error in any::<u8>(),
        (shelf, slot) in any::<(u16, u8)>(),
        tag in any::<[u8; 4]>(),
    ) -> Header {
        Header {
            destination,
            source,
            version,
            flags,
            error,
            address: Address { shelf, slot },
            command: Command::Ata,
            tag: Tag(tag),
        }
    }
}

/// A body over `rest`, which stands for data, string, directives, list or table.
fn body(kind: u8, numbers: [u8; 12], rest: &[u8]) -> Body<'_> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = numbers;
    match kind % 6 {
        0 => Body::Ata(Ata {
            flags: AtaFlags(a),
            feature_or_error: b,
            count: c,
            command_or_status: d,
            lba: [e, f, g, h, i, j],
            reserved: [k, l],
            data: rest,
        }),
        1 => Body::Config(Config {
            buffer_count: u16::from_be_bytes([a, b]),
            firmware: u16::from_be_bytes([c, d]),
            sector_count: e,
            version: f & 0x0F,
            command: g.into(),
            string_len: u16::from_be_bytes([h, i]),
            rest,
        }),
        2 => Body::Mask(Mask {
            command: a.into(),
            error: b.into(),
            count: c,
            rest,
        }),
        3 => Body::Reserve(Reserve {
            command: a.into(),
            count: b,
            rest,
        }),
        4 => Body::Extension(ExtensionTable {
            length: [a, b],
            rest,
        }),
        // Codes that name none of the others.
        _ => Body::Unknown(a | 0x80, rest),
    }
}

/// Bytes with a good chance to be an AoE frame of some command.
fn frame_bytes() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![
        Just(0_u8),
        Just(1),
        Just(2),
        Just(3),
        Just(0x23),
        any::<u8>()
    ];
    (vec(any::<u8>(), 0..1600), command, any::<bool>()).prop_map(|(mut bytes, command, aoe)| {
        if aoe && bytes.len() > 19 {
            bytes.splice(12..14, [0x88, 0xA2]);
            bytes.splice(19..20, [command]);
        }
        bytes
    })
}

/// Whether `part` lies in the memory of `whole`.
fn within(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

proptest! {
    #[test]
    fn a_frame_is_read_as_it_was_written(
        header in header(),
        kind in any::<u8>(),
        numbers in any::<[u8; 12]>(),
        rest in vec(any::<u8>(), 0..1100),
    ) {
        let written = body(kind, numbers, &rest);
        let mut out = vec![0xA5; 1200];
        let len = written.encode(header, &mut out).unwrap();
        prop_assert!(len >= MIN_FRAME_BYTES && out[len..].iter().all(|&byte| byte == 0xA5));

        let frame = Frame::decode(&out[..len]).unwrap();
        prop_assert_eq!(frame.header, Header { command: written.command(), ..header });
        // Behind the value there may be padding, and nothing but zeros.
        let padding = len - HEADER_BYTES - fixed_bytes(&written) - rest.len();
        let padded = [&rest[..], &vec![0; padding]].concat();
        prop_assert_eq!(frame.body().unwrap(), body(kind, numbers, &padded));
        prop_assert!(padding == 0 || len == MIN_FRAME_BYTES);
    }

    #[test]
    fn any_bytes_are_read_and_printed_without_panic(bytes in frame_bytes()) {
        let Ok(frame) = Frame::decode(&bytes) else {
            return Ok(());
        };
        prop_assert_eq!(frame.len(), bytes.len());
        prop_assert!(!frame.to_string().contains('\n'));
        if let Ok(body) = frame.body() {
            prop_assert_eq!(body.command(), frame.header.command);
            let mut out = vec![0xA5; bytes.len().max(MIN_FRAME_BYTES)];
            prop_assert_eq!(body.encode(frame.header, &mut out), Ok(out.len()));
            // The reserved byte of a mask frame is the only one that is not kept.
            if matches!(body, Body::Mask(_)) {
                out[HEADER_BYTES] = bytes[HEADER_BYTES];
            }
            prop_assert_eq!(&out[..bytes.len()], &bytes[..]);
        }
    }

    #[test]
    fn iterators_end_and_stay_within_the_frame(bytes in frame_bytes()) {
        let Ok(frame) = Frame::decode(&bytes) else {
            return Ok(());
        };
        match frame.body() {
            Ok(Body::Ata(ata)) => {
                prop_assert!(trim_ranges(ata.data).count() <= ata.data.len() / 8);
                if let Some(reads) = CoalescedReads::decode(ata.data) {
                    let most = (ata.data.len() - 1) / 16;
                    prop_assert_eq!(
                        reads.reads().count(),
                        most.min(usize::from(reads.announced()))
                    );
                }
            }
            Ok(Body::Config(config)) => {
                if let Ok(string) = config.string() {
                    prop_assert!(within(string, &bytes));
                    prop_assert_eq!(string.len(), usize::from(config.string_len));
                }
            }
            Ok(Body::Mask(mask)) => {
                if let Ok(directives) = mask.directives() {
                    prop_assert_eq!(directives.count(), usize::from(mask.count));
                }
            }
            Ok(Body::Reserve(reserve)) => {
                if let Ok(macs) = reserve.macs() {
                    prop_assert_eq!(macs.count(), usize::from(reserve.count));
                }
            }
            Ok(Body::Extension(table)) => {
                if let Ok(entries) = table.entries() {
                    let mut end = 0;
                    for entry in entries {
                        prop_assert!(within(entry.bytes, &bytes) && !entry.bytes.is_empty());
                        prop_assert_eq!(entry.start, end);
                        end = entry.start + entry.bytes.len() + 1;
                        let _ = congestion_id(entry.bytes);
                    }
                    prop_assert!(end < table.rest.len());
                }
            }
            Ok(Body::Unknown(..)) | Err(_) => {}
        }
    }

    #[test]
    fn buffers_too_short_are_refused(
        header in header(),
        kind in any::<u8>(),
        numbers in any::<[u8; 12]>(),
        rest in vec(any::<u8>(), 0..200),
        short in any::<prop::sample::Index>(),
    ) {
        let body = body(kind, numbers, &rest);
        let mut out = vec![0; 400];
        let len = body.encode(header, &mut out).unwrap();
        prop_assert_eq!(body.encode(header, &mut out[..len]), Ok(len));
        prop_assert_eq!(body.encode(header, &mut out[..short.index(len)]), Err(NoRoom));
    }

    #[test]
    fn lists_are_read_as_they_were_written(
        header in header(),
        macs in vec(mac(), 0..300),
        short in any::<prop::sample::Index>(),
    ) {
        let mut out = vec![0; 2100];
        let sent = &macs[..macs.len().min(255)];

        let command = aoede_wire::MaskCommand::Edit;
        let len = encode_mask_list(header, command, &macs, &mut out).unwrap();
        let frame = Frame::decode(&out[..len]).unwrap();
        let Ok(Body::Mask(mask)) = frame.body() else {
            return Err(TestCaseError::fail("no mask frame"));
        };
        let code = aoede_wire::DirectiveCode::None;
        let entries = sent.iter().map(|&mac| Directive { code, mac });
        prop_assert!(mask.directives().unwrap().eq(entries));
        prop_assert_eq!(
            encode_mask_list(header, command, &macs, &mut out[..short.index(len)]),
            Err(NoRoom)
        );

        let command = aoede_wire::ReserveCommand::Set;
        let len = encode_reserve_list(header, command, &macs, &mut out).unwrap();
        let frame = Frame::decode(&out[..len]).unwrap();
        let Ok(Body::Reserve(reserve)) = frame.body() else {
            return Err(TestCaseError::fail("no reserve frame"));
        };
        prop_assert!(reserve.macs().unwrap().eq(sent.iter().copied()));
        prop_assert_eq!(
            encode_reserve_list(header, command, &macs, &mut out[..short.index(len)]),
            Err(NoRoom)
        );
    }

    #[test]
    fn coalesced_reads_are_read_as_they_were_written(
        entries in vec(any::<([u8; 4], [u8; 6], [u8; 5], u8)>(), 1..300),
        short in any::<prop::sample::Index>(),
    ) {
        let reads: Vec<_> = entries
            .into_iter()
            .map(|(tag, lba, reserved, count)| CoalescedRead {
                tag: Tag(tag),
                lba,
                reserved,
                count,
            })
            .collect();
        let mut out = vec![0; 5000];
        let len = CoalescedReads::encode(&reads, &mut out).unwrap();
        let sent = &reads[..reads.len().min(255)];
        let decoded = CoalescedReads::decode(&out[..len]).unwrap();
        prop_assert!(decoded.reads().eq(sent.iter().copied()));
        prop_assert_eq!(
            CoalescedReads::encode(&reads, &mut out[..short.index(len)]),
            Err(NoRoom)
        );
    }

    #[test]
    fn coalesced_writes_are_read_as_they_were_added(
        entries in vec(any::<([u8; 4], [u8; 6], u8, u8, u8)>(), 0..300),
        frame_bytes in 60..5000_usize,
    ) {
        let writes: Vec<_> = entries
            .into_iter()
            .map(|(tag, lba, error, status, count)| CoalescedWrite {
                tag: Tag(tag),
                lba,
                error,
                status: Status(status),
                count,
            })
            .collect();
        let mut frame = vec![0xA5; frame_bytes];
        frame[..60].fill(0);
        let mut len = 60;
        let mut added = 0;
        for &write in &writes {
            let Ok(longer) = CoalescedWrites::append(&mut frame, len, write) else { break };
            len = longer;
            added += 1;
        }
        prop_assert_eq!(added, writes.len().min((frame_bytes - 37) / 16).min(255));
        prop_assert_eq!(len, 60.max(37 + 16 * added));
        let decoded = CoalescedWrites::decode(&frame[36..len]).unwrap();
        prop_assert!(decoded.writes().eq(writes[..added].iter().copied()));
        prop_assert!(frame[len..].iter().all(|&byte| byte == 0xA5));
    }

    /// §7.3: a length that is valid in both byte orders gives the same entries in both.
    #[test]
    fn the_byte_order_of_a_table_length_makes_no_difference(
        table in vec(prop_oneof![3 => Just(0_u8), 1 => Just(b'a')], 0..2000),
        length in prop_oneof![any::<[u8; 2]>(), [0..4_u8, 0..4_u8]],
    ) {
        let read = |length| ExtensionTable { length, rest: &table }.entries();
        let [low, high] = length;
        let one = read([low, high]).map(Iterator::collect::<Vec<_>>);
        let other = read([high, low]).map(Iterator::collect::<Vec<_>>);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_checksum_does_not_depend_on_the_pieces(
        bytes in vec(any::<u8>(), 0..1100),
        split in any::<prop::sample::Index>(),
    ) {
        let (head, tail) = bytes.split_at(split.index(bytes.len() + 1));
        let mut crc = Crc8x4::new();
        crc.update(head);
        crc.update(tail);
        prop_assert_eq!(crc.finish(), Crc8x4::of(&bytes));
    }

    #[test]
    fn addresses_read_as_they_print(shelf in 0..0xFFFF_u16, slot in 0..0xFF_u8, mac in mac()) {
        let address = Address { shelf, slot };
        prop_assert_eq!(address.to_string().parse(), Ok(address));
        prop_assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn any_text_is_parsed_without_panic(text in ".{0,20}") {
        if let Ok(address) = text.parse::<Address>() {
            prop_assert!(!address.is_wildcard());
        }
        let _ = text.parse::<MacAddr>();
    }
}

/// Bytes of a body before its variable part (§3 to §7).
fn fixed_bytes(body: &Body<'_>) -> usize {
    match body {
        Body::Ata(_) => 12,
        Body::Config(_) => 8,
        Body::Mask(_) => 4,
        Body::Reserve(_) | Body::Extension(_) => 2,
        Body::Unknown(..) => 0,
    }
}
