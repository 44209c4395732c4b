//! Plain loops on the widest vector units there are, found at run time and without unsafe code. It changes no bit: a
//! loop's arithmetic is the same on all of them.

/// Runs `work`, compiled once for each kind of vector unit. What it calls must be inlined to count: closures as
/// `#[inline(always)] || ...`, functions with that attribute.
#[inline(always)]
pub fn vectorised<R>(work: impl FnMut() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnMut() -> R> pulp::NullaryFnOnce for Work<F> {
        type Output = R;
        // Called as `FnMut`: as `FnOnce`, a shim that is compiled for no vector unit stands between.
        #[inline(always)]
        fn call(mut self) -> R {
            (self.0)()
        }
    }
    pulp::Arch::new().dispatch(Work(work))
}
