"""The books beside the contract's own figures."""

from orchestrator.core.reconciliation import ContractFigures
from orchestrator.core.records import Books
from orchestrator.ports.contract import TicketContract
from tandem.protocol.errors import ChainUnavailable


async def contract_figures(books: Books, contract: TicketContract) -> ContractFigures:
    """As of the block that the ledger stands at, so that both can be compared while an orchestrator is at work.

    Raises ChainUnavailable if no endpoint answers, or if that block is no longer a part of the chain; ChainError if the
    endpoint has forgotten its state.
    """
    cursor = books.cursor
    if cursor is None:
        raise ChainUnavailable(
            f"no block was read into the ledger of {contract.sender} yet: run the orchestrator, which reads them, or "
            "correct chain.sender, if that is not whose tickets it signs"
        )
    found = await contract.block(cursor.block_number)
    if found.hash != cursor.block_hash:
        raise ChainUnavailable(
            f"block {cursor.block_number}, which the ledger stands at, has vanished in a reorganisation: run the "
            "orchestrator, which takes its entries back"
        )
    funds = await contract.funds(contract.sender, cursor.block_number)
    kept = {account.node: await contract.credit(account.node) for account in books.accounts if account.redeemed}
    return ContractFigures(funds.deposit, funds.reserve, funds.allocated, kept)
