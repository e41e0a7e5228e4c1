#!/bin/sh
# Puts the ticket contract on a fresh test chain, with money behind the tickets of the nodes in docker-compose.yml.
# The contract's address follows from the operator's key and from being its first transaction.
set -eu
: "${KEYS:=/keys}"

on_chain() { command=$1; shift; tandem chain "$command" --rpc "$RPC" "$@"; }
as_operator() { on_chain "$@" --contract "$CONTRACT" --keystore "$KEYS/operator.json" --password-file "$KEYS/password"; }

if on_chain funds --contract "$CONTRACT" "$OPERATOR" "$NODE" 2>/dev/null; then
  echo "the contract is there already"
  exit
fi
deployed=$(on_chain deploy --keystore "$KEYS/operator.json" --password-file "$KEYS/password" --unlock-period 86400)
if [ "$deployed" != "$CONTRACT" ]; then
  echo "expected the contract at $CONTRACT, got $deployed: the chain is not fresh; remove its volume" >&2
  exit 1
fi
as_operator fund --deposit 10ether --reserve 10ether
as_operator authorise-signer "$SIGNER"
as_operator allocate "$NODE" 5ether "$NODE_GPU" 5ether
