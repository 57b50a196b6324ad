"""The operations: pure functions of arrays that check their arguments and own their derivatives."""
