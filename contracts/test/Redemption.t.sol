// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { TicketBroker } from "../src/TicketBroker.sol";
import { Base } from "./Base.sol";
import { bound, vm } from "./Cheats.sol";
import { Bomber, Burner, Reenterer, Refuser, Wallet } from "./Recipients.sol";

/// @notice Redeeming tickets, good ones and hostile ones.
contract RedemptionTest is Base {
    uint256 private constant ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    // ---- paying

    function test_WinnersArePaidInFull() public {
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        ITicketBroker.RedemptionBatch memory batch = winners(params, 3);
        uint32[] memory nonces = new uint32[](3);
        (nonces[1], nonces[2]) = (1, 2);
        bytes32 paramsHash = broker.hashParams(params);
        vm.expectEmit();
        emit ITicketBroker.TicketsRedeemed(sender, recipient, paramsHash, nonces, 3 ether, 0);
        vm.assertEq(redeem(batch), 3 ether);
        vm.assertEq(recipient.balance, 3 ether);
        vm.assertEq(depositOf(), 7 ether);
        vm.assertTrue(broker.isRedeemed(paramsHash, 2));
        vm.assertFalse(broker.isRedeemed(paramsHash, 3));
    }

    function test_TheDepositIsSpentBeforeTheAllocation() public {
        fund(1 ether, 5 ether);
        allocate(recipient, 3 ether);
        allocate(rival, 2 ether);
        vm.assertEq(redeem(winners(paramsOf(1.5 ether, ALWAYS), 2)), 3 ether);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(funds.deposit, 0);
        vm.assertEq(funds.reserve, 3 ether);
        vm.assertEq(funds.allocation, 1 ether);
        vm.assertEq(funds.allocated, 3 ether);
        vm.assertEq(broker.funds(sender, rival).allocation, 2 ether);
    }

    function test_AWinnerIsPaidInFullOrStaysRedeemable() public {
        fund(1.5 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        ITicketBroker.RedemptionBatch memory batch = winners(params, 2);
        expectTicketRefused(params, 1, ITicketBroker.Refusal.Unfunded);
        vm.assertEq(redeem(batch), 1 ether);
        vm.assertEq(depositOf(), 0.5 ether);
        fund(0.5 ether, 0);
        vm.assertEq(redeem(batch), 1 ether);
        vm.assertEq(recipient.balance, 2 ether);
    }

    function testFuzz_NeverMoreThanWhatIsThere(uint96 deposit, uint96 allocation, uint96 faceValue) public {
        vm.assume(deposit != 0 && allocation != 0 && faceValue != 0);
        fund(deposit, allocation);
        allocate(recipient, allocation);
        uint256 affordable = (uint256(deposit) + allocation) / faceValue;
        uint256 paid = redeem(winners(paramsOf(faceValue, ALWAYS), 4));
        vm.assertEq(paid, (affordable < 4 ? affordable : 4) * faceValue);
        vm.assertEq(recipient.balance, paid);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(uint256(funds.deposit) + funds.reserve, uint256(deposit) + allocation - paid);
        vm.assertEq(funds.allocated, funds.reserve);
        vm.assertEq(funds.allocation, funds.reserve);
    }

    function test_AnotherRecipientsAllocationIsOutOfReach() public {
        fund(0, 5 ether);
        allocate(rival, 5 ether);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.Unfunded);
        redeem(winners(params, 1));
    }

    function test_AnAllocationBeingLoweredIsThereUntilItsTime() public {
        fund(0, 5 ether);
        allocate(recipient, 5 ether);
        allocate(recipient, 1 ether);
        vm.warp(block.timestamp + UNLOCK_PERIOD - 1);
        vm.assertEq(redeem(winners(paramsOf(2 ether, ALWAYS), 1)), 2 ether);
        vm.warp(block.timestamp + 1);
        ITicketBroker.TicketParams memory params = paramsOf(0.6 ether, ALWAYS);
        expectTicketRefused(params, 1, ITicketBroker.Refusal.Unfunded);
        vm.assertEq(redeem(winners(params, 2)), 0.6 ether);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        vm.assertEq(funds.allocation, 0.4 ether);
        vm.assertEq(funds.allocated, 0.4 ether);
        vm.assertEq(funds.reserve, 2.4 ether);
    }

    function test_ManySetsInOneCall() public {
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory other = paramsOf(2 ether, ALWAYS);
        other.recipient = rival;
        ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](4);
        batches[0] = winners(paramsOf(1 ether, ALWAYS), 1);
        batches[1] = winners(paramsOf(1.5 ether, ALWAYS), 1);
        batches[2] = winners(other, 1);
        batches[3] = winners(paramsOf(3 ether, ALWAYS), 1);
        uint256[] memory amounts = broker.redeem(batches);
        vm.assertEq(amounts[0] + amounts[1] + amounts[3], recipient.balance);
        vm.assertEq(recipient.balance, 5.5 ether);
        vm.assertEq(rival.balance, 2 ether);
    }

    function test_NoncesAcrossTheWordsOfTheBitmap() public {
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory tickets = bytes.concat(
            ticketOf(SENDER_KEY, params, 255),
            ticketOf(SENDER_KEY, params, 256),
            ticketOf(SENDER_KEY, params, type(uint32).max)
        );
        vm.assertEq(redeem(batchOf(params, tickets)), 3 ether);
        bytes32 paramsHash = broker.hashParams(params);
        vm.assertTrue(broker.isRedeemed(paramsHash, type(uint32).max));
        vm.assertFalse(broker.isRedeemed(paramsHash, 0));
    }

    // ---- refusing

    function test_AReplayIsRefused() public {
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory ticket = ticketOf(SENDER_KEY, params, 0);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.AlreadyRedeemed);
        vm.assertEq(redeem(batchOf(params, bytes.concat(ticket, ticket))), 1 ether);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.AlreadyRedeemed);
        vm.assertEq(redeem(batchOf(params, ticket)), 0);
    }

    function test_ALoserIsRefused() public {
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, 0);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.NotWinning);
        redeem(winners(params, 1));
    }

    function testFuzz_TheDrawDecides(uint256 winProb, uint32 senderNonce) public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, winProb);
        (bytes32 r, bytes32 vs) = vm.signCompact(SENDER_KEY, broker.ticketDigest(params, senderNonce));
        bool wins = uint256(keccak256(abi.encodePacked(r, vs, RAND))) < winProb;
        uint256 paid = redeem(batchOf(params, abi.encodePacked(senderNonce, r, vs)));
        vm.assertEq(paid, wins ? 1 ether : 0);
        vm.assertEq(broker.isRedeemed(broker.hashParams(params), senderNonce), wins);
    }

    function testFuzz_ABadTicketDoesNotSinkTheRest(bytes32 r, bytes32 vs, uint32 senderNonce) public {
        vm.assume(senderNonce > 1);
        fund(10 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory tickets = bytes.concat(
            ticketOf(SENDER_KEY, params, 0), abi.encodePacked(senderNonce, r, vs), ticketOf(SENDER_KEY, params, 1)
        );
        vm.assertEq(redeem(batchOf(params, tickets)), 2 ether);
    }

    function test_AnExpiredBatchIsRefused() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        ITicketBroker.RedemptionBatch memory batch = winners(params, 1);
        vm.warp(EXPIRY);
        expectBatchRefused(params, ITicketBroker.Refusal.Expired);
        redeem(batch);
        vm.warp(EXPIRY - 1);
        vm.assertEq(redeem(batch), 1 ether);
    }

    function test_AWrongRevealIsRefused() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        ITicketBroker.RedemptionBatch memory batch = winners(params, 1);
        batch.recipientRand = keccak256("another");
        expectBatchRefused(params, ITicketBroker.Refusal.WrongReveal);
        redeem(batch);
    }

    function testFuzz_TicketsCutShortAreRefused(uint8 cut) public {
        vm.assume(cut % 68 != 0);
        fund(9 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        ITicketBroker.RedemptionBatch memory batch = winners(params, 4);
        bytes memory tickets = batch.tickets;
        assembly {
            mstore(tickets, sub(mload(tickets), cut))
        }
        expectBatchRefused(params, ITicketBroker.Refusal.MalformedBatch);
        redeem(batch);
    }

    function test_NothingToRedeem() public {
        vm.assertEq(redeem(batchOf(paramsOf(1 ether, ALWAYS), "")), 0);
        vm.assertEq(broker.redeem(new ITicketBroker.RedemptionBatch[](0)).length, 0);
    }

    /// @dev A high `s` rarely fits the compact form, so the key is made from a signature that has one.
    function test_TheSecondEncodingOfASignatureIsRefused() public {
        fund(2 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        uint256 highS = ORDER / 2 + 5;
        // The point with the signature's random number 1 is the generator; its y is even.
        uint256 r = 0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798;
        address twin = ecrecover(broker.ticketDigest(params, 0), 27, bytes32(r), bytes32(highS));
        vm.prank(sender);
        broker.authoriseSigner(twin);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.InvalidSignature);
        vm.assertEq(redeem(batchOf(params, abi.encodePacked(uint32(0), r, highS))), 0);
        uint256 low = (ORDER - highS) | (1 << 255);
        vm.assertEq(redeem(batchOf(params, abi.encodePacked(uint32(0), r, low))), 1 ether);
    }

    function test_SignaturesOfNobodyAreRefused() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.InvalidSignature);
        redeem(batchOf(params, new bytes(68)));
    }

    function test_AStrangersSignatureIsRefused() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.UnauthorisedSigner);
        redeem(batchOf(params, ticketOf(SIGNER_KEY, params, 0)));
    }

    function test_ASignersTicketsAreGoodUntilItsRevocationCounts() public {
        fund(3 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        vm.assertEq(redeem(batchOf(params, ticketOf(SIGNER_KEY, params, 0))), 1 ether);
        vm.prank(sender);
        broker.revokeSigner(signer);
        vm.warp(block.timestamp + UNLOCK_PERIOD - 1);
        vm.assertEq(redeem(batchOf(params, ticketOf(SIGNER_KEY, params, 1))), 1 ether);
        vm.warp(block.timestamp + 1);
        expectTicketRefused(params, 2, ITicketBroker.Refusal.UnauthorisedSigner);
        redeem(batchOf(params, ticketOf(SIGNER_KEY, params, 2)));
    }

    function test_WhatAReauthorisedSignerSignedCountsAgain() public {
        fund(1 ether, 0);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        vm.prank(sender);
        broker.revokeSigner(signer);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory ticket = ticketOf(SIGNER_KEY, params, 0);
        vm.warp(block.timestamp + UNLOCK_PERIOD);
        vm.assertEq(redeem(batchOf(params, ticket)), 0);
        vm.prank(sender);
        broker.authoriseSigner(signer);
        vm.assertEq(redeem(batchOf(params, ticket)), 1 ether);
    }

    function test_ASignerOfAnotherSenderIsRefused() public {
        fund(1 ether, 0);
        vm.prank(rival);
        broker.authoriseSigner(signer);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.UnauthorisedSigner);
        redeem(batchOf(params, ticketOf(SIGNER_KEY, params, 0)));
    }

    /// @dev The sender can withdraw no sooner by this than its recipients' own allocations allow: not at all.
    function test_TicketsToItselfReachNoAllocationOfOthers() public {
        fund(1 ether, 2 ether);
        allocate(recipient, 2 ether);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = sender;
        expectTicketRefused(params, 1, ITicketBroker.Refusal.Unfunded);
        vm.assertEq(redeem(winners(params, 2)), 1 ether);
        vm.assertEq(broker.funds(sender, recipient).allocation, 2 ether);
    }

    function testFuzz_AFaceValueThatNobodyCanPayIsUnfunded(uint256 faceValue) public {
        fund(1 ether, 1 ether);
        allocate(recipient, 1 ether);
        ITicketBroker.TicketParams memory params = paramsOf(bound(faceValue, 2 ether + 1, ALWAYS), ALWAYS);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.Unfunded);
        vm.assertEq(redeem(winners(params, 2)), 0);
    }

    function test_TicketsOfAnotherChainOrContractAreRefused() public {
        fund(1 ether, 0);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        bytes memory ticket = ticketOf(SENDER_KEY, params, 0);
        vm.chainId(1);
        expectTicketRefused(params, 0, ITicketBroker.Refusal.UnauthorisedSigner);
        redeem(batchOf(params, ticket));
        TicketBroker other = new TicketBroker(UNLOCK_PERIOD);
        other.fundDeposit{ value: 1 ether }(sender);
        vm.assertEq(other.redeem(listOf(batchOf(params, ticket)))[0], 0);
    }

    // ---- recipients that misbehave

    function test_ARecipientThatRefusesIsCredited() public {
        fund(3 ether, 0);
        Refuser refuser = new Refuser();
        ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](2);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        batches[1] = winners(params, 1);
        params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(refuser);
        batches[0] = winners(params, 1);
        vm.expectEmit();
        emit ITicketBroker.PaymentCredited(address(refuser), 1 ether);
        broker.redeem(batches);
        vm.assertEq(recipient.balance, 1 ether);
        vm.assertEq(broker.credit(address(refuser)), 1 ether);
        vm.expectEmit();
        emit ITicketBroker.CreditWithdrawn(address(refuser), away, 1 ether);
        refuser.withdraw(broker, away);
        vm.assertEq(away.balance, 1 ether);
        vm.assertEq(broker.credit(address(refuser)), 0);
    }

    function test_RevertWhen_WithdrawingCreditToNobody() public {
        fund(1 ether, 0);
        Refuser refuser = new Refuser();
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(refuser);
        redeem(winners(params, 1));
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AddressZero.selector));
        refuser.withdraw(broker, payable(address(0)));
        vm.assertEq(broker.credit(address(refuser)), 1 ether);
    }

    function test_RevertWhen_WithdrawingNoCredit() public {
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.AmountZero.selector));
        broker.withdrawCredit(away);
    }

    function test_RecipientsThatBurnGasHurtNobody() public {
        fund(3 ether, 0);
        address[2] memory hostile = [address(new Burner()), address(new Bomber())];
        for (uint256 i = 0; i < hostile.length; ++i) {
            ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
            params.recipient = hostile[i];
            ITicketBroker.RedemptionBatch memory batch = winners(params, 1);
            uint256 before = gasleft();
            vm.assertEq(redeem(batch), 1 ether);
            vm.assertLe(before - gasleft(), 250_000);
        }
    }

    function test_RevertWhen_ACallerIsShortOfGas() public {
        fund(1 ether, 0);
        ITicketBroker.RedemptionBatch[] memory batches = listOf(winners(paramsOf(1 ether, ALWAYS), 1));
        (bool succeeded, bytes memory data) =
            address(broker).call{ gas: 110_000 }(abi.encodeCall(ITicketBroker.redeem, (batches)));
        vm.assertFalse(succeeded);
        vm.assertEq(bytes32(bytes4(data)), bytes32(ITicketBroker.GasTooLow.selector));
    }

    /// @dev Whatever gas a caller gives, a contract that would take its payment is paid or nothing at all happens.
    function testFuzz_ACallerCannotTurnAPaymentIntoACredit(uint256 gas) public {
        fund(1 ether, 0);
        Wallet wallet = new Wallet();
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(wallet);
        bytes memory call = abi.encodeCall(ITicketBroker.redeem, (listOf(winners(params, 1))));
        (bool succeeded,) = address(broker).call{ gas: bound(gas, 100_000, 250_000) }(call);
        vm.assertEq(broker.credit(address(wallet)), 0);
        vm.assertEq(address(wallet).balance, succeeded ? 1 ether : 0);
        vm.assertEq(depositOf(), succeeded ? 0 : 1 ether);
    }

    function test_RevertWhen_WithdrawingCreditToWhoRefuses() public {
        fund(1 ether, 0);
        Refuser refuser = new Refuser();
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(refuser);
        redeem(winners(params, 1));
        vm.expectRevert(abi.encodeWithSelector(ITicketBroker.TransferFailed.selector, address(refuser), 1 ether));
        refuser.withdraw(broker, payable(address(refuser)));
        vm.assertEq(broker.credit(address(refuser)), 1 ether);
    }

    function test_ReenteringWithdrawCreditFindsNothing() public {
        fund(2 ether, 0);
        Reenterer reenterer = new Reenterer(broker);
        reenterer.take(false);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(reenterer);
        redeem(winners(params, 1));
        reenterer.take(true);
        reenterer.arm(abi.encodeCall(ITicketBroker.withdrawCredit, (away)));
        vm.prank(address(reenterer));
        broker.withdrawCredit(payable(address(reenterer)));
        vm.assertTrue(reenterer.entered());
        vm.assertFalse(reenterer.succeeded());
        vm.assertEq(address(broker).balance, 1 ether);
    }

    function test_ReenteringFindsNothing() public {
        fund(3 ether, 0);
        Reenterer reenterer = new Reenterer(broker);
        ITicketBroker.TicketParams memory params = paramsOf(1 ether, ALWAYS);
        params.recipient = address(reenterer);
        ITicketBroker.RedemptionBatch[] memory batches = listOf(winners(params, 1));
        reenterer.arm(abi.encodeCall(ITicketBroker.redeem, (batches)));
        broker.redeem(batches);
        vm.assertEq(depositOf(), 2 ether);
        vm.assertEq(address(reenterer).balance + broker.credit(address(reenterer)), 1 ether);
        vm.assertTrue(reenterer.entered());
    }

    // ---- golden vectors, shared with the Python side

    function test_GoldenVectors() public {
        string memory json = vm.readFile("test/golden.json");
        vm.chainId(31337);
        vm.prank(vm.parseJsonAddress(json, ".deployer"));
        broker = new TicketBroker(UNLOCK_PERIOD);
        uint256 count = vm.parseJsonUint(json, ".count");
        for (uint256 i = 0; i < count; ++i) {
            checkGolden(json, string.concat(".tickets[", vm.toString(i), "]"));
        }
    }

    function checkGolden(string memory json, string memory path) private {
        vm.assertEq(vm.parseJsonAddress(json, string.concat(path, ".domain.contract")), address(broker));
        ITicketBroker.TicketParams memory params = goldenParams(json, string.concat(path, ".ticket.params."));
        uint32 senderNonce = uint32(vm.parseJsonUint(json, string.concat(path, ".ticket.sender_nonce")));
        vm.assertEq(broker.hashParams(params), vm.parseJsonBytes32(json, string.concat(path, ".params_hash")));
        vm.assertEq(broker.ticketDigest(params, senderNonce), vm.parseJsonBytes32(json, string.concat(path, ".digest")));
        sender = params.sender;
        fund(1 ether, 0);
        vm.prank(sender);
        broker.authoriseSigner(vm.parseJsonAddress(json, string.concat(path, ".signer")));
        bool wins = vm.parseJsonBool(json, string.concat(path, ".wins"));
        if (!wins) expectTicketRefused(params, senderNonce, ITicketBroker.Refusal.NotWinning);
        else if (params.faceValue > 1 ether) expectTicketRefused(params, senderNonce, ITicketBroker.Refusal.Unfunded);
        ITicketBroker.RedemptionBatch memory batch = ITicketBroker.RedemptionBatch({
            params: params,
            recipientRand: vm.parseJsonBytes32(json, string.concat(path, ".recipient_rand")),
            tickets: abi.encodePacked(senderNonce, vm.parseJsonBytes(json, string.concat(path, ".ticket.signature")))
        });
        vm.assertEq(redeem(batch) != 0, wins && params.faceValue <= 1 ether);
    }

    function goldenParams(string memory json, string memory path)
        private
        pure
        returns (ITicketBroker.TicketParams memory)
    {
        return ITicketBroker.TicketParams({
            sender: vm.parseJsonAddress(json, string.concat(path, "sender")),
            recipient: vm.parseJsonAddress(json, string.concat(path, "recipient")),
            faceValue: vm.parseJsonUint(json, string.concat(path, "face_value")),
            winProb: vm.parseJsonUint(json, string.concat(path, "win_prob")),
            expiry: uint64(vm.parseJsonUint(json, string.concat(path, "expiry"))),
            commitment: vm.parseJsonBytes32(json, string.concat(path, "commitment"))
        });
    }
}
