//! Copies of frames that wait.

/// Room for a fixed number of frames. Memory that has never been used costs none: it comes with the
/// first use of each place.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    frame_bytes: usize,
    /// Bytes of the frame in each place.
    lens: Vec<usize>,
}

impl Frames {
    /// Room for `count` frames of up to `frame_bytes`.
    pub fn new(count: usize, frame_bytes: usize) -> Self {
        Self {
            // From the system as zeros that nobody has touched.
            bytes: vec![0; count.saturating_mul(frame_bytes)],
            frame_bytes,
            lens: vec![0; count],
        }
    }

    /// Copies a frame into a place, as much of it as fits: more than a buffer takes is of no use.
    pub fn put(&mut self, place: usize, frame: &[u8]) {
        let frame = frame.get(..self.frame_bytes).unwrap_or(frame);
        let start = place.saturating_mul(self.frame_bytes);
        let room = self.bytes.get_mut(start..start.saturating_add(frame.len()));
        if let (Some(room), Some(len)) = (room, self.lens.get_mut(place)) {
            room.copy_from_slice(frame);
            *len = frame.len();
        }
    }

    /// The frame in a place.
    pub fn get(&self, place: usize) -> &[u8] {
        let start = place.saturating_mul(self.frame_bytes);
        let len = self.lens.get(place).copied().unwrap_or(0);
        let end = start.saturating_add(len);
        self.bytes.get(start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_keep_to_their_places() {
        let mut frames = Frames::new(3, 100);
        frames.put(1, &[1; 100]);
        frames.put(0, &[2; 60]);
        frames.put(2, &[3; 1]);
        frames.put(3, &[4; 1]);
        assert_eq!(frames.get(0), [2; 60]);
        assert_eq!(frames.get(1), [1; 100]);
        assert_eq!(frames.get(2), [3]);
        frames.put(1, &[5; 101]);
        assert_eq!(frames.get(1), [5; 100]);
        assert_eq!(frames.get(2), [3]);
        assert!(frames.get(3).is_empty());
    }
}
