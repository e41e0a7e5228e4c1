// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { vm } from "./Cheats.sol";

/// @notice What the broker's state must be, written down apart from the broker, so that the two can be compared.
abstract contract Model {
    struct Promise {
        uint256 amount;
        uint256 loweredTo;
        uint256 lowersAt;
    }

    /// @notice A batch before it is signed: ticket `i` has `senderNonces[i]`, and is signed by `keys[i]`.
    struct Draft {
        ITicketBroker.TicketParams params;
        bytes32 recipientRand;
        uint32[] senderNonces;
        uint256[] keys;
    }

    struct TicketId {
        bytes32 paramsHash;
        uint32 senderNonce;
    }

    uint32 internal constant UNLOCK_PERIOD = 1 days;
    bytes32 internal constant RAND = keccak256("rand");

    ITicketBroker public broker;

    mapping(address sender => uint256 amount) public deposit;
    mapping(address sender => uint256 amount) public reserve;
    mapping(address sender => uint256 time) public unlockAt;
    mapping(address sender => mapping(address recipient => Promise promised)) private promises;
    mapping(address sender => mapping(address signer => uint256 time)) public validUntil;
    mapping(bytes32 paramsHash => mapping(uint32 senderNonce => bool redeemed)) public wasPaid;
    TicketId[] public tried;

    uint256 public funded;
    uint256 public withdrawn;
    mapping(address to => uint256 amount) public withdrawnTo;
    mapping(address recipient => uint256 amount) public paidTo;
    mapping(address recipient => uint256 amount) public creditWithdrawn;

    /// @dev Time, kept here because the compiler takes `block.timestamp` for constant within a call.
    uint256 public nowIs = 1_800_000_000;

    /// @notice What the recipient may count on, now.
    function promised(address sender, address recipient) public view returns (uint256) {
        Promise storage made = promises[sender][recipient];
        bool lowered = made.lowersAt != 0 && made.lowersAt <= nowIs && made.loweredTo < made.amount;
        return lowered ? made.loweredTo : made.amount;
    }

    function triedCount() external view returns (uint256) {
        return tried.length;
    }

    // ---- what acts do

    function didFund(address sender, uint256 toDeposit, uint256 toReserve) internal {
        deposit[sender] += toDeposit;
        reserve[sender] += toReserve;
        funded += toDeposit + toReserve;
    }

    function didAllocate(address sender, address recipient, uint256 amount) internal {
        uint256 current = promised(sender, recipient);
        promises[sender][recipient] =
            amount < current ? Promise(current, amount, nowIs + UNLOCK_PERIOD) : Promise(amount, 0, 0);
    }

    function didWithdraw(address sender, address to, uint256 fromDeposit, uint256 fromReserve) internal {
        vm.assertTrue(isUnlocked(sender), "withdrawn while locked");
        vm.assertLe(fromDeposit, deposit[sender], "withdrew more than the deposit");
        vm.assertLe(fromReserve, reserve[sender], "withdrew more than the reserve");
        deposit[sender] -= fromDeposit;
        reserve[sender] -= fromReserve;
        withdrawn += fromDeposit + fromReserve;
        withdrawnTo[to] += fromDeposit + fromReserve;
    }

    /// @return amount What the broker must have paid for the batch.
    function didRedeem(Draft memory draft) internal returns (uint256 amount) {
        ITicketBroker.TicketParams memory params = draft.params;
        bytes32 paramsHash = broker.hashParams(params);
        uint256 available = deposit[params.sender] + promised(params.sender, params.recipient);
        bool good = draft.recipientRand == RAND && nowIs < params.expiry;
        for (uint256 i = 0; i < draft.senderNonces.length; ++i) {
            uint32 senderNonce = draft.senderNonces[i];
            tried.push(TicketId(paramsHash, senderNonce));
            if (!good || wasPaid[paramsHash][senderNonce] || !wins(draft, i)) continue;
            if (amount + params.faceValue > available) continue;
            wasPaid[paramsHash][senderNonce] = true;
            amount += params.faceValue;
        }
        drew(params.sender, params.recipient, amount);
    }

    // ---- internals

    function isUnlocked(address sender) internal view returns (bool) {
        return unlockAt[sender] != 0 && unlockAt[sender] <= nowIs;
    }

    function wins(Draft memory draft, uint256 index) private view returns (bool) {
        address sender = draft.params.sender;
        address signer = vm.addr(draft.keys[index]);
        if (signer != sender && validUntil[sender][signer] <= nowIs) return false;
        bytes memory signature = sign(draft, index);
        return uint256(keccak256(bytes.concat(signature, RAND))) < draft.params.winProb;
    }

    function sign(Draft memory draft, uint256 index) internal view returns (bytes memory) {
        bytes32 digest = broker.ticketDigest(draft.params, draft.senderNonces[index]);
        (bytes32 r, bytes32 vs) = vm.signCompact(draft.keys[index], digest);
        return abi.encodePacked(r, vs);
    }

    function drew(address sender, address recipient, uint256 amount) private {
        paidTo[recipient] += amount;
        if (amount <= deposit[sender]) {
            deposit[sender] -= amount;
            return;
        }
        uint256 fromReserve = amount - deposit[sender];
        deposit[sender] = 0;
        reserve[sender] -= fromReserve;
        promises[sender][recipient].amount = promised(sender, recipient) - fromReserve;
    }
}
