// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { TicketBroker } from "../src/TicketBroker.sol";
import { vm } from "./Cheats.sol";

/// @notice A broker, a sender with a signer, a recipient, and the making of tickets.
abstract contract Base {
    uint256 internal constant SENDER_KEY = 0xA11CE;
    uint256 internal constant SIGNER_KEY = 0xB0B;
    uint32 internal constant UNLOCK_PERIOD = 1 days;
    uint64 internal constant EXPIRY = 4_000_000_000;
    bytes32 internal constant RAND = keccak256("rand");
    uint256 internal constant ALWAYS = type(uint256).max;

    TicketBroker internal broker;
    address internal sender = vm.addr(SENDER_KEY);
    address internal signer = vm.addr(SIGNER_KEY);
    address internal recipient = address(0xCAFE);
    address internal rival = address(0xBEEF);
    address payable internal away = payable(address(0xA3A7));

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        broker = new TicketBroker(UNLOCK_PERIOD);
        vm.deal(address(this), type(uint128).max);
        vm.deal(sender, 1000 ether);
    }

    // ---- acting

    function fund(uint256 deposit, uint256 reserve) internal {
        if (deposit != 0) broker.fundDeposit{ value: deposit }(sender);
        if (reserve != 0) broker.fundReserve{ value: reserve }(sender);
    }

    function allocate(address to, uint96 amount) internal {
        ITicketBroker.Allocation[] memory allocations = allocationOf(to, amount);
        vm.prank(sender);
        broker.allocate(allocations);
    }

    function allocationOf(address to, uint96 amount) internal pure returns (ITicketBroker.Allocation[] memory list) {
        list = new ITicketBroker.Allocation[](1);
        list[0] = ITicketBroker.Allocation({ recipient: to, amount: amount });
    }

    function unlockAndWait() internal {
        vm.prank(sender);
        broker.unlock();
        vm.warp(block.timestamp + UNLOCK_PERIOD);
    }

    function redeem(ITicketBroker.RedemptionBatch memory batch) internal returns (uint256) {
        return broker.redeem(listOf(batch))[0];
    }

    // ---- making tickets

    function paramsOf(uint256 faceValue, uint256 winProb) internal view returns (ITicketBroker.TicketParams memory) {
        return ITicketBroker.TicketParams({
            sender: sender,
            recipient: recipient,
            faceValue: faceValue,
            winProb: winProb,
            expiry: EXPIRY,
            commitment: keccak256(abi.encode(RAND))
        });
    }

    function ticketOf(uint256 key, ITicketBroker.TicketParams memory params, uint32 senderNonce)
        internal
        view
        returns (bytes memory)
    {
        (bytes32 r, bytes32 vs) = vm.signCompact(key, broker.ticketDigest(params, senderNonce));
        return abi.encodePacked(senderNonce, r, vs);
    }

    function batchOf(ITicketBroker.TicketParams memory params, bytes memory tickets)
        internal
        pure
        returns (ITicketBroker.RedemptionBatch memory)
    {
        return ITicketBroker.RedemptionBatch({ params: params, recipientRand: RAND, tickets: tickets });
    }

    /// @dev Tickets by the sender, with nonces from zero on.
    function winners(ITicketBroker.TicketParams memory params, uint32 count)
        internal
        view
        returns (ITicketBroker.RedemptionBatch memory)
    {
        bytes memory tickets;
        for (uint32 i = 0; i < count; ++i) {
            tickets = bytes.concat(tickets, ticketOf(SENDER_KEY, params, i));
        }
        return batchOf(params, tickets);
    }

    function listOf(ITicketBroker.RedemptionBatch memory batch)
        internal
        pure
        returns (ITicketBroker.RedemptionBatch[] memory batches)
    {
        batches = new ITicketBroker.RedemptionBatch[](1);
        batches[0] = batch;
    }

    // ---- expecting

    function expectTicketRefused(
        ITicketBroker.TicketParams memory params,
        uint32 senderNonce,
        ITicketBroker.Refusal reason
    ) internal {
        bytes32 paramsHash = broker.hashParams(params);
        vm.expectEmit();
        emit ITicketBroker.TicketRefused(params.sender, params.recipient, paramsHash, senderNonce, reason);
    }

    function expectBatchRefused(ITicketBroker.TicketParams memory params, ITicketBroker.Refusal reason) internal {
        bytes32 paramsHash = broker.hashParams(params);
        vm.expectEmit();
        emit ITicketBroker.BatchRefused(params.sender, params.recipient, paramsHash, reason);
    }

    function depositOf() internal view returns (uint256) {
        return broker.funds(sender, recipient).deposit;
    }

    receive() external payable { }
}
