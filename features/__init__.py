"""The features of a shopper's session, pure: state, apply, finalize. No IO, no clock, no async, no logging."""
