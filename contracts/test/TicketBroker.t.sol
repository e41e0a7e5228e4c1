// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { TicketBroker } from "../src/TicketBroker.sol";
import { Base } from "./Base.sol";
import { vm } from "./Cheats.sol";
import { Reenterer } from "./Recipients.sol";

/// @notice Funding, allocating, signers, unlocking and withdrawing.
contract TicketBrokerTest is Base {
    // ---- constructor, domain

    function test_RevertWhen_TheUnlockPeriodIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.UnlockPeriodZero.selector));
        new TicketBroker(0);
    }

    function test_TheDomainFollowsTheChain() public {
        bytes32 before = broker.domainSeparator();
        vm.chainId(1);
        bytes32 fork = broker.domainSeparator();
        vm.assertFalse(before == fork);
        vm.assertEq(
            fork,
            keccak256(
                abi.encode(
                    keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                    keccak256("TandemTicketBroker"),
                    keccak256("1"),
                    uint256(1),
                    address(broker)
                )
            )
        );
    }

    // ---- funding

    function testFuzz_AnyoneFundsAnyone(uint96 deposit, uint96 reserve) public {
        vm.assume(deposit != 0 && reserve != 0);
        vm.expectEmit();
        emit ITicketBroker.DepositFunded(sender, address(this), deposit);
        broker.fundDeposit{ value: deposit }(sender);
        vm.expectEmit();
        emit ITicketBroker.ReserveFunded(sender, address(this), reserve);
        broker.fundReserve{ value: reserve }(sender);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(funds.deposit, deposit);
        vm.assertEq(funds.reserve, reserve);
        vm.assertEq(address(broker).balance, uint256(deposit) + reserve);
    }

    function test_RevertWhen_FundingNothing() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AmountZero.selector));
        broker.fundDeposit(sender);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AmountZero.selector));
        broker.fundReserve(sender);
    }

    function test_RevertWhen_FundingNobody() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        broker.fundDeposit{ value: 1 }(address(0));
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        broker.fundReserve{ value: 1 }(address(0));
    }

    function test_RevertWhen_FundingMoreThanFits() public {
        uint256 amount = uint256(type(uint96).max) + 1;
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AmountTooLarge.selector, amount));
        broker.fundDeposit{ value: amount }(sender);
    }

    function test_RevertWhen_ADepositOverflows() public {
        fund(type(uint96).max, 0);
        vm.expectRevert(abi.encodeWithSignature("Panic(uint256)", 0x11));
        broker.fundDeposit{ value: 1 }(sender);
    }

    // ---- allocating

    function testFuzz_AllocationsNeverExceedTheReserve(uint96 reserve, uint96 first, uint96 second) public {
        vm.assume(reserve != 0 && first <= reserve);
        fund(0, reserve);
        vm.expectEmit();
        emit ITicketBroker.AllocationChanged(sender, recipient, first);
        allocate(recipient, first);
        uint96 free = reserve - first;
        if (second > free) {
            vm.expectRevert(abi.encodeWithSelector(ITicketBroker.ReserveTooSmall.selector, free, second));
            this.allocateExternally(rival, second);
        } else {
            allocate(rival, second);
            vm.assertEq(broker.funds(sender, rival).allocated, uint256(first) + second);
        }
    }

    function allocateExternally(address to, uint96 amount) external {
        allocate(to, amount);
    }

    function test_LoweringWaitsForTheUnlockPeriod() public {
        fund(0, 10 ether);
        allocate(recipient, 10 ether);
        uint64 lowersAt = uint64(block.timestamp) + UNLOCK_PERIOD;
        vm.expectEmit();
        emit ITicketBroker.AllocationLoweringStarted(sender, recipient, 4 ether, lowersAt);
        allocate(recipient, 4 ether);

        vm.warp(lowersAt - 1);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(funds.allocation, 10 ether);
        vm.assertEq(funds.loweredTo, 4 ether);
        vm.assertEq(funds.lowersAt, lowersAt);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.ReserveTooSmall.selector, 0, 1));
        this.allocateExternally(rival, 1);

        vm.warp(lowersAt);
        vm.assertEq(broker.funds(sender, recipient).allocation, 4 ether);
        allocate(recipient, 4 ether);
        funds = broker.funds(sender, recipient);
        vm.assertEq(funds.allocated, 4 ether);
        vm.assertEq(funds.lowersAt, 0);
        allocate(rival, 6 ether);
    }

    function test_RaisingUndoesALowering() public {
        fund(0, 10 ether);
        allocate(recipient, 5 ether);
        allocate(recipient, 1 ether);
        allocate(recipient, 6 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD);
        vm.assertEq(broker.funds(sender, recipient).allocation, 6 ether);
        vm.assertEq(broker.funds(sender, recipient).allocated, 6 ether);
    }

    function test_LoweringAgainStartsAnew() public {
        fund(0, 10 ether);
        allocate(recipient, 10 ether);
        allocate(recipient, 5 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD / 2);
        allocate(recipient, 2 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD / 2);
        vm.assertEq(broker.funds(sender, recipient).allocation, 10 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD / 2);
        vm.assertEq(broker.funds(sender, recipient).allocation, 2 ether);
    }

    function test_LoweringAfterALoweringKeepsTheFirst() public {
        fund(0, 10 ether);
        allocate(recipient, 10 ether);
        allocate(recipient, 5 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD);
        allocate(recipient, 2 ether);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(funds.allocation, 5 ether);
        vm.assertEq(funds.allocated, 5 ether);
    }

    function test_RevertWhen_AllocationsTogetherExceedTheReserve() public {
        fund(0, 3 ether);
        ITicketBroker.Allocation[] memory list = new ITicketBroker.Allocation[](3);
        list[0] = ITicketBroker.Allocation({ recipient: recipient, amount: 2 ether });
        list[1] = ITicketBroker.Allocation({ recipient: rival, amount: 1 ether });
        list[2] = ITicketBroker.Allocation({ recipient: away, amount: 1 });
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.ReserveTooSmall.selector, 0, 1));
        vm.prank(sender);
        broker.allocate(list);
        vm.assertEq(broker.funds(sender, recipient).allocation, 0);
        list[2].amount = 0;
        vm.prank(sender);
        broker.allocate(list);
        vm.assertEq(broker.funds(sender, recipient).allocation, 2 ether);
        vm.assertEq(broker.funds(sender, rival).allocation, 1 ether);
    }

    // ---- signers

    function test_SignersAreAuthorisedAndRevoked() public {
        vm.expectEmit();
        emit ITicketBroker.SignerAuthorised(sender, signer);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        vm.assertEq(broker.signerValidUntil(sender, signer), type(uint64).max);
        uint64 validUntil = uint64(block.timestamp) + UNLOCK_PERIOD;
        vm.expectEmit();
        emit ITicketBroker.SignerRevoked(sender, signer, validUntil);
        vm.prank(sender);
        broker.revokeSigner(signer);
        vm.assertEq(broker.signerValidUntil(sender, signer), validUntil);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        vm.assertEq(broker.signerValidUntil(sender, signer), type(uint64).max);
    }

    function test_RevertWhen_TheSignerIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        broker.authoriseSigner(address(0));
    }

    function test_RevertWhen_RevokingWhoIsNoSignerOrTwice() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.SignerNotAuthorised.selector, signer));
        broker.revokeSigner(signer);
        broker.authoriseSigner(signer);
        broker.revokeSigner(signer);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.SignerNotAuthorised.selector, signer));
        broker.revokeSigner(signer);
    }

    // ---- unlocking and withdrawing

    function test_WithdrawingAfterTheUnlockPeriod() public {
        fund(3 ether, 2 ether);
        allocate(recipient, 1 ether);
        vm.expectEmit();
        emit ITicketBroker.UnlockStarted(sender, uint64(block.timestamp) + UNLOCK_PERIOD);
        unlockAndWait();
        vm.expectEmit();
        emit ITicketBroker.DepositWithdrawn(sender, away, 3 ether);
        vm.prank(sender);
        broker.withdrawDeposit(3 ether, away);
        vm.expectEmit();
        emit ITicketBroker.ReserveWithdrawn(sender, away, 1 ether);
        vm.prank(sender);
        broker.withdrawReserve(1 ether, away);
        vm.assertEq(away.balance, 4 ether);
        vm.assertEq(address(broker).balance, 1 ether);
    }

    function test_RevertWhen_WithdrawingWhileLocked() public {
        fund(1 ether, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.NotUnlocking.selector));
        vm.prank(sender);
        broker.withdrawDeposit(1, away);
        vm.prank(sender);
        broker.unlock();
        uint64 unlockAt = uint64(block.timestamp) + UNLOCK_PERIOD;
        vm.warp(unlockAt - 1);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.StillLocked.selector, unlockAt));
        vm.prank(sender);
        broker.withdrawReserve(1, away);
    }

    function test_RevertWhen_WithdrawingWhatIsPromised() public {
        fund(0, 2 ether);
        allocate(recipient, 1.5 ether);
        unlockAndWait();
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.ReserveTooSmall.selector, 0.5 ether, 0.6 ether));
        vm.prank(sender);
        broker.withdrawReserve(0.6 ether, away);
    }

    function test_RevertWhen_WithdrawingMoreThanTheDeposit() public {
        fund(1 ether, 1 ether);
        unlockAndWait();
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.DepositTooSmall.selector, 1 ether, 2 ether));
        vm.prank(sender);
        broker.withdrawDeposit(2 ether, away);
    }

    function test_RevertWhen_WithdrawingToWhoRefuses() public {
        fund(1 ether, 0);
        unlockAndWait();
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.TransferFailed.selector, address(broker), 1 ether));
        vm.prank(sender);
        broker.withdrawDeposit(1 ether, payable(address(broker)));
    }

    function test_RevertWhen_WithdrawingToNobody() public {
        fund(1 ether, 1 ether);
        unlockAndWait();
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        vm.prank(sender);
        broker.withdrawDeposit(1, payable(address(0)));
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        vm.prank(sender);
        broker.withdrawReserve(1, payable(address(0)));
        vm.assertEq(address(broker).balance, 2 ether);
    }

    function test_ReenteringAWithdrawalFindsNothing() public {
        Reenterer reenterer = new Reenterer(broker);
        sender = address(reenterer);
        fund(2 ether, 2 ether);
        allocate(recipient, 1 ether);
        fundStranger();
        unlockAndWait();
        reenterer.arm(abi.encodeCall(ITicketBroker.withdrawDeposit, (1.5 ether, away)));
        vm.prank(sender);
        broker.withdrawDeposit(1 ether, payable(sender));
        vm.assertTrue(reenterer.entered());
        reenterer.arm(abi.encodeCall(ITicketBroker.withdrawReserve, (1 ether, away)));
        vm.prank(sender);
        broker.withdrawReserve(1 ether, payable(sender));
        vm.assertTrue(reenterer.entered());
        vm.assertEq(sender.balance, 2 ether);
        vm.assertEq(address(broker).balance, 12 ether);
    }

    /// @dev So that the broker has more than it owes to the sender at hand.
    function fundStranger() private {
        broker.fundDeposit{ value: 10 ether }(rival);
    }

    function test_WhatIsAddedWhileUnlockedIsUnlocked() public {
        unlockAndWait();
        fund(1 ether, 0);
        vm.prank(sender);
        broker.withdrawDeposit(1 ether, away);
        vm.assertEq(away.balance, 1 ether);
    }

    function test_CancellingLocksAgain() public {
        fund(1 ether, 0);
        unlockAndWait();
        vm.expectEmit();
        emit ITicketBroker.UnlockCancelled(sender);
        vm.prank(sender);
        broker.cancelUnlock();
        vm.assertEq(broker.funds(sender, recipient).unlockAt, 0);
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.NotUnlocking.selector));
        vm.prank(sender);
        broker.withdrawDeposit(1, away);
    }

    function test_RevertWhen_UnlockingTwiceOrCancellingNothing() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.NotUnlocking.selector));
        broker.cancelUnlock();
        broker.unlock();
        uint64 unlockAt = uint64(block.timestamp) + UNLOCK_PERIOD;
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.UnlockUnderWay.selector, unlockAt));
        broker.unlock();
    }

    function testFuzz_NobodyElseMovesAnUnlock(address other) public {
        vm.assume(other != sender);
        fund(1 ether, 1 ether);
        vm.prank(sender);
        broker.unlock();
        uint64 unlockAt = broker.funds(sender, recipient).unlockAt;
        vm.prank(other);
        broker.unlock();
        vm.prank(other);
        broker.cancelUnlock();
        fund(1 ether, 1 ether);
        vm.assertEq(broker.funds(sender, recipient).unlockAt, unlockAt);
    }
}
