// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { TicketBroker } from "../src/TicketBroker.sol";
import { bound, vm } from "./Cheats.sol";
import { Reenterer, Refuser } from "./Recipients.sol";

/// @notice Acts at random for several senders, signers and recipients. Nothing that it does may revert, and whatever it
/// does must leave every promise to every recipient as it was, save those that this act may lower.
contract Handler {
    uint32 private constant UNLOCK_PERIOD = 1 days;
    uint256 private constant SENDERS = 3;
    uint256 private constant RECIPIENTS = 4;
    bytes32 private constant RAND = keccak256("rand");

    TicketBroker public immutable broker = new TicketBroker(UNLOCK_PERIOD);
    address[RECIPIENTS] public recipients;
    uint256 public paid;
    uint256 public funded;
    uint256 public withdrawn;

    /// @dev Time, kept here because the compiler takes `block.timestamp` for constant within a call.
    uint256 private nowIs = 1_800_000_000;
    mapping(bytes32 paramsHash => mapping(uint32 senderNonce => bool)) private wasPaid;

    constructor() {
        recipients = [address(0xCAFE), address(0xBEEF), address(new Refuser()), address(new Reenterer(broker))];
        vm.warp(nowIs);
    }

    /// @dev Whatever the act is, promises to recipients may fall only where `exceptTo` says, and by no more than paid.
    modifier keepsPromises(address from, address exceptTo) {
        uint256[] memory before = allocations();
        _;
        uint256[] memory afterwards = allocations();
        for (uint256 i = 0; i < before.length; ++i) {
            bool excepted = senderAt(i / RECIPIENTS) == from && recipients[i % RECIPIENTS] == exceptTo;
            vm.assertTrue(excepted || afterwards[i] >= before[i], "a promise was broken");
        }
    }

    function fundDeposit(uint256 from, uint256 amount) external {
        amount = bound(amount, 1, 10 ether);
        vm.deal(address(this), amount);
        funded += amount;
        broker.fundDeposit{ value: amount }(senderAt(from));
    }

    function fundReserve(uint256 from, uint256 amount) external {
        amount = bound(amount, 1, 10 ether);
        vm.deal(address(this), amount);
        funded += amount;
        broker.fundReserve{ value: amount }(senderAt(from));
    }

    function allocate(uint256 from, uint256 to, uint256 amount) external keepsPromises(address(0), address(0)) {
        (address sender, address recipient) = (senderAt(from), recipients[to % RECIPIENTS]);
        ITicketBroker.Funds memory funds = broker.funds(sender, recipient);
        uint256 free = funds.reserve - funds.allocated + funds.allocation;
        ITicketBroker.Allocation[] memory list = new ITicketBroker.Allocation[](1);
        list[0] = ITicketBroker.Allocation({ recipient: recipient, amount: uint96(bound(amount, 0, free)) });
        vm.prank(sender);
        broker.allocate(list);
    }

    function authoriseSigner(uint256 from) external {
        vm.prank(senderAt(from));
        broker.authoriseSigner(vm.addr(signerKey(from)));
    }

    function revokeSigner(uint256 from) external {
        address sender = senderAt(from);
        address signer = vm.addr(signerKey(from));
        if (broker.signerValidUntil(sender, signer) != type(uint64).max) return;
        vm.prank(sender);
        broker.revokeSigner(signer);
    }

    function toggleUnlock(uint256 from) external keepsPromises(address(0), address(0)) {
        address sender = senderAt(from);
        bool unlocking = broker.funds(sender, address(0)).unlockAt != 0;
        vm.prank(sender);
        if (unlocking) broker.cancelUnlock();
        else broker.unlock();
    }

    /// @dev Withdraws what it may; before the unlock period has passed it must not, and tries.
    function withdraw(uint256 from, uint256 amount) external keepsPromises(address(0), address(0)) {
        address sender = senderAt(from);
        ITicketBroker.Funds memory funds = broker.funds(sender, address(0));
        bool unlocked = funds.unlockAt != 0 && funds.unlockAt <= nowIs;
        uint96 free = funds.reserve - funds.allocated;
        vm.prank(sender);
        try broker.withdrawReserve(uint96(bound(amount, 0, free)), payable(address(0xA3A7))) {
            vm.assertTrue(unlocked, "withdrawn while locked");
            withdrawn += bound(amount, 0, free);
        } catch {
            vm.assertFalse(unlocked);
        }
        vm.prank(sender);
        try broker.withdrawReserve(free + 1, payable(address(0xA3A7))) {
            vm.assertTrue(false, "withdrew what is promised");
        } catch { }
        if (!unlocked) return;
        vm.prank(sender);
        broker.withdrawDeposit(funds.deposit, payable(address(0xA3A7)));
        withdrawn += funds.deposit;
    }

    function redeem(uint256 from, uint256 to, uint256 faceValue, uint32 senderNonce, bool bySigner)
        external
        keepsPromises(senderAt(from), recipients[to % RECIPIENTS])
    {
        ITicketBroker.TicketParams memory params = ITicketBroker.TicketParams({
            sender: senderAt(from),
            recipient: recipients[to % RECIPIENTS],
            faceValue: bound(faceValue, 1, 4) * 1 ether,
            winProb: type(uint256).max / 4 * 3,
            expiry: type(uint64).max,
            commitment: keccak256(abi.encode(RAND))
        });
        // Few nonces, so that many are tried again; each is in the batch twice.
        senderNonce %= 16;
        redeemTwice(params, senderNonce, bySigner ? signerKey(from) : senderKey(from));
    }

    function withdrawCredit() external {
        address payable to = payable(address(0xA3A7));
        uint256 amount = broker.credit(recipients[2]);
        if (amount == 0) return;
        Refuser(payable(recipients[2])).withdraw(broker, to);
    }

    function warp(uint256 by) external {
        nowIs += bound(by, 1 hours, 1 days);
        vm.warp(nowIs);
    }

    // ---- what invariants ask

    /// @return held Deposits, reserves and credits of all.
    function accounted() external view returns (uint256 held) {
        for (uint256 i = 0; i < SENDERS; ++i) {
            ITicketBroker.Funds memory funds = broker.funds(senderAt(i), address(0));
            held += uint256(funds.deposit) + funds.reserve;
        }
        for (uint256 i = 0; i < RECIPIENTS; ++i) {
            held += broker.credit(recipients[i]);
        }
    }

    function checkAllocations() external view {
        for (uint256 i = 0; i < SENDERS; ++i) {
            ITicketBroker.Funds memory funds;
            uint256 sum = 0;
            for (uint256 j = 0; j < RECIPIENTS; ++j) {
                funds = broker.funds(senderAt(i), recipients[j]);
                sum += funds.allocation;
            }
            vm.assertLe(sum, funds.allocated, "allocations exceed what is bound");
            vm.assertLe(funds.allocated, funds.reserve, "more is bound than the reserve holds");
        }
    }

    // ---- internals

    function redeemTwice(ITicketBroker.TicketParams memory params, uint32 senderNonce, uint256 key) private {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, broker.ticketDigest(params, senderNonce));
        bytes memory ticket = abi.encodePacked(senderNonce, r, vs);
        ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](1);
        batches[0] = ITicketBroker.RedemptionBatch({
            params: params, recipientRand: RAND, tickets: bytes.concat(ticket, ticket)
        });
        if (params.recipient == recipients[3]) {
            Reenterer(payable(recipients[3])).arm(abi.encodeCall(ITicketBroker.redeem, (batches)));
        }
        uint256 before = params.recipient.balance + broker.credit(params.recipient);
        uint256 amount = broker.redeem(batches)[0];
        uint256 received = params.recipient.balance + broker.credit(params.recipient) - before;
        vm.assertEq(received, amount, "received is not what was paid");
        if (amount == 0) return;
        vm.assertEq(amount, params.faceValue, "not paid in full, or twice");
        bytes32 paramsHash = broker.hashParams(params);
        vm.assertFalse(wasPaid[paramsHash][senderNonce]);
        wasPaid[paramsHash][senderNonce] = true;
        paid += amount;
    }

    function allocations() private view returns (uint256[] memory found) {
        found = new uint256[](SENDERS * RECIPIENTS);
        for (uint256 i = 0; i < found.length; ++i) {
            found[i] = broker.funds(senderAt(i / RECIPIENTS), recipients[i % RECIPIENTS]).allocation;
        }
    }

    function senderAt(uint256 index) private pure returns (address) {
        return vm.addr(senderKey(index));
    }

    function senderKey(uint256 index) private pure returns (uint256) {
        return 0xA11CE + index % SENDERS;
    }

    function signerKey(uint256 index) private pure returns (uint256) {
        return 0xB0B + index % SENDERS;
    }
}

contract InvariantsTest {
    Handler private handler;

    function setUp() public {
        handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function invariant_TheBalanceIsWhatIsAccountedFor() public view {
        vm.assertEq(address(handler.broker()).balance, handler.accounted());
    }

    function invariant_AllocationsAreBackedByTheReserve() public view {
        handler.checkAllocations();
    }

    function invariant_PaidNeverExceedsFunded() public view {
        vm.assertLe(handler.paid() + handler.withdrawn(), handler.funded());
    }
}
