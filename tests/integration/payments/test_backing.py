"""What the contract promises is lowered under a node that works: it refuses nothing, and is paid in the end."""

from tests.fixtures.payments import FACE
from tests.integration.payments.conftest import ALLOCATION, World


async def test_payments_are_held_until_the_allocation_is_raised_and_none_is_refused(world: World) -> None:
    await world.act(world.broker.allocate([(world.node, FACE)]))
    await world.earn(3)
    await world.pass_time(30)
    await world.paying.earn(world.node, FACE - 1)
    await world.session.exchange()
    account = await world.paying.store.account(world.node)
    assert (account.refused, world.earning.books.balance.received) == (0, 0)
    assert len(await world.paying.store.open_payments(world.node)) == 2

    await world.act(world.broker.allocate([(world.node, ALLOCATION)]))
    await world.pass_time(15)
    account = await world.paying.store.account(world.node)
    assert (account.refused, account.earned) == (0, 4 * FACE - 4)
    assert world.earning.books.balance.received == account.issued >= account.earned
    assert not await world.paying.store.open_payments(world.node)
    await world.settle()
    assert await world.redeemed() == 4 * FACE
