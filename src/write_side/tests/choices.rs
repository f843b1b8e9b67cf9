//! Runs that differ in every combination of choices.

/// Enumerates all combinations of choices, one combination per run, like an odometer.
#[derive(Default)]
pub struct Choices {
    made: Vec<(usize, usize)>,
    next: usize,
}

impl Choices {
    /// One of `0..of`.
    pub fn choose(&mut self, of: usize) -> usize {
        if self.next == self.made.len() {
            self.made.push((0, of));
        }
        let (chosen, before) = self.made[self.next];
        assert_eq!(before, of, "a run asks what the run before asked");
        self.next += 1;
        chosen
    }

    /// Makes the same choices again, in a second run.
    pub fn repeat(&mut self) {
        self.next = 0;
    }

    /// Advances to the next combination; false when all were tried.
    pub fn advance(&mut self) -> bool {
        self.next = 0;
        while let Some((chosen, of)) = self.made.pop() {
            if chosen + 1 < of {
                self.made.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}
