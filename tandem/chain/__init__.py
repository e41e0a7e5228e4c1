"""The ticket contract as typed calls and events, and the one sender of transactions of an account."""
