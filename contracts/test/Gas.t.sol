// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { Base } from "./Base.sol";
import { vm } from "./Cheats.sol";
import { Refuser } from "./Recipients.sol";

/// @notice What whole transactions cost, with all that a transaction pays; snapshots/Gas.json holds the figures.
/// forge-config: default.isolate = true
contract GasTest is Base {
    /// @dev No two tests share a nonce's word or a recipient, so that each says itself what is warm.
    function setUp() public override {
        super.setUp();
        vm.deal(recipient, 1);
    }

    // ---- funding and promising

    function test_Fund() public {
        broker.fundDeposit{ value: 1 ether }(sender);
        measured("fundDeposit, first");
        broker.fundDeposit{ value: 1 ether }(sender);
        measured("fundDeposit, later");
        broker.fundReserve{ value: 1 ether }(sender);
        measured("fundReserve, later");
        broker.fundReserve{ value: 1 ether }(rival);
        measured("fundReserve, first");
    }

    function test_Allocate() public {
        fund(0, 100 ether);
        allocate(recipient, 1 ether);
        measured("allocate, first");
        allocate(rival, 1 ether);
        measured("allocate, another recipient");
        allocate(recipient, 2 ether);
        measured("allocate, raised");
        allocate(recipient, 1 ether);
        measured("allocate, lowered");
    }

    function test_AllocateToTen() public {
        fund(0, 100 ether);
        allocateToTen(1 ether);
        measured("allocate, 10 at once, first");
        allocateToTen(2 ether);
        measured("allocate, 10 at once, raised");
    }

    function test_Signers() public {
        vm.prank(sender);
        broker.authoriseSigner(signer);
        measured("authoriseSigner");
        vm.prank(sender);
        broker.revokeSigner(signer);
        measured("revokeSigner");
    }

    function test_Withdraw() public {
        fund(2 ether, 2 ether);
        vm.deal(away, 1);
        unlockAndWait();
        measured("unlock");
        vm.prank(sender);
        broker.withdrawDeposit(1 ether, away);
        measured("withdrawDeposit");
        vm.prank(sender);
        broker.withdrawReserve(1 ether, away);
        measured("withdrawReserve");
        vm.prank(sender);
        broker.cancelUnlock();
        measured("cancelUnlock");
    }

    // ---- redeeming

    function test_RedeemOne() public {
        fund(100 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        redeem(batchOf(params, ticketOf(SENDER_KEY, params, 0)));
        redeem(batchOf(params, ticketOf(SENDER_KEY, params, 1)));
        measured("redeem 1, warm");
        params.recipient = rival;
        redeem(batchOf(params, ticketOf(SENDER_KEY, params, 0)));
        measured("redeem 1, a new set and an account that never held anything");
    }

    function test_RedeemBatches() public {
        fund(1000 ether, 0);
        uint32[4] memory sizes = [uint32(1), 10, 50, 200];
        for (uint256 i = 0; i < sizes.length; ++i) {
            ITicketBroker.RedemptionBatch memory batch = winners(paramsOf(1 ether, ALWAYS - i), sizes[i]);
            string memory name = string.concat("redeem ", vm.toString(sizes[i]));
            redeem(batch);
            measured(name);
            vm.snapshotValue("Calldata", name, abi.encodeCall(ITicketBroker.redeem, (listOf(batch))).length);
        }
    }

    function test_RedeemBySigner() public {
        fund(100 ether, 0);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory tickets;
        for (uint32 i = 0; i < 50; ++i) {
            tickets = bytes.concat(tickets, ticketOf(SIGNER_KEY, params, i));
        }
        redeem(batchOf(params, tickets));
        measured("redeem 50, by a signer");
    }

    function test_RedeemThreeSets() public {
        fund(100 ether, 0);
        ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](3);
        for (uint256 i = 0; i < batches.length; ++i) {
            batches[i] = winners(paramsOf(1 ether, ALWAYS - i), 10);
        }
        broker.redeem(batches);
        measured("redeem 3 sets of 10");
    }

    function test_RedeemFromAllocation() public {
        fund(0, 100 ether);
        allocate(recipient, 60 ether);
        redeem(winners(paramsOf(1 ether, ALWAYS), 50));
        measured("redeem 50, from the allocation");
    }

    function test_RedeemToARecipientThatRefuses() public {
        fund(100 ether, 0);
        Refuser refuser = new Refuser();
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(refuser);
        redeem(batchOf(params, ticketOf(SENDER_KEY, params, 0)));
        measured("redeem 1, a new set, refused and credited");
        vm.deal(away, 1);
        vm.prank(address(refuser));
        broker.withdrawCredit(away);
        measured("withdrawCredit");
    }

    function test_RedeemNothing() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, 0);
        redeem(winners(params, 50));
        measured("redeem 50, none of which wins");
    }

    // ---- internals

    function measured(string memory name) private {
        vm.snapshotGasLastCall("Gas", name);
    }

    function allocateToTen(uint96 amount) private {
        ITicketBroker.Allocation[] memory allocations = new ITicketBroker.Allocation[](10);
        for (uint160 i = 0; i < 10; ++i) {
            allocations[i] = ITicketBroker.Allocation({ recipient: address(0xFACE + i), amount: amount });
        }
        vm.prank(sender);
        broker.allocate(allocations);
    }
}
