//! Enums of reasons why something went no further: one reason each, with a stable label, counted.

use core::marker::PhantomData;

/// Declares such an enum: each reason with its label and, if there is a type behind the enum's name, a value of that, which
/// [`blame`] tells.
///
/// [`blame`]: crate::drop::DropReason::blame
#[macro_export]
macro_rules! reasons {
    ($(#[$attr:meta])* pub enum $enum:ident {
        $($(#[$doc:meta])* $name:ident = $label:literal;)*
    }) => {
        $(#[$attr])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum $enum { $($(#[$doc])* $name,)* }

        impl $enum {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// A stable label for metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }

        impl $crate::reasons::Reason for $enum {
            const ALL: &'static [Self] = Self::ALL;
            fn index(self) -> usize {
                self as usize
            }
        }
    };
    ($(#[$attr:meta])* pub enum $enum:ident: $of:ident {
        $($(#[$doc:meta])* $name:ident = $label:literal, $value:ident;)*
    }) => {
        $crate::reasons! {
            $(#[$attr])*
            pub enum $enum { $($(#[$doc])* $name = $label;)* }
        }

        impl $enum {
            /// Who has to act.
            pub const fn blame(self) -> $of {
                match self { $(Self::$name => $of::$value,)* }
            }
        }
    };
}

/// An enum made by [`reasons!`](crate::reasons!).
pub trait Reason: Copy + 'static {
    /// Every reason, in the order of declaration.
    const ALL: &'static [Self];
    /// Its place there.
    fn index(self) -> usize;
}

/// How often each of `N` reasons occurred.
#[derive(Clone, Debug)]
pub struct Counts<R, const N: usize>([u64; N], PhantomData<R>);

impl<R, const N: usize> Default for Counts<R, N> {
    fn default() -> Self {
        Self([0; N], PhantomData)
    }
}

impl<R: Reason, const N: usize> Counts<R, N> {
    /// Counts one.
    pub fn count(&mut self, reason: R) {
        self.count_many(reason, 1);
    }
    /// Counts `n`.
    pub fn count_many(&mut self, reason: R, n: u64) {
        self.0[reason.index()] += n;
    }
    /// How often `reason` occurred.
    pub fn get(&self, reason: R) -> u64 {
        self.0[reason.index()]
    }
    /// Every reason that occurred, in order of declaration.
    pub fn nonzero(&self) -> impl Iterator<Item = (R, u64)> {
        R::ALL.iter().map(|&r| (r, self.get(r))).filter(|&(_, n)| n > 0)
    }
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a += b;
        }
    }
}
