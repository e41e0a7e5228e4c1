// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { TicketBroker } from "../src/TicketBroker.sol";
import { bound, vm } from "./Cheats.sol";
import { Model } from "./Model.sol";
import { Reenterer, Refuser } from "./Recipients.sol";

/// @notice Acts at random for several senders, signers and recipients, and writes down in the model what must come of
/// it. Nothing that it does may revert. One contract is sender and recipient at once, and calls the broker again from
/// within whatever pays it.
contract Handler is Model {
    uint256 private constant SIGNERS = 3;
    uint32 private constant SENDER_NONCES = 8;
    uint64 private constant EARLY = 1_800_000_000 + 8 days;
    uint256 private constant STRANGER = 0x5747;

    enum Nested {
        Nothing,
        Redeem,
        RedeemTheSame,
        WithdrawCredit,
        WithdrawDeposit,
        WithdrawReserve,
        Allocate,
        Unlock,
        CancelUnlock,
        Revoke
    }

    address payable public constant AWAY = payable(address(0xA3A7));
    address[] private senders;
    address[] private recipients;
    Refuser private immutable refuser = new Refuser();
    Reenterer private immutable reenterer;

    /// @dev What the re-entering contract is armed with.
    Nested private nested;
    Draft private nestedDraft;
    uint96 private nestedAmount;
    address private nestedRecipient;

    constructor() {
        vm.warp(nowIs);
        vm.deal(AWAY, 1);
        broker = new TicketBroker(UNLOCK_PERIOD);
        reenterer = new Reenterer(broker);
        senders = [vm.addr(0xA11CE), vm.addr(0xA11CE + 1), vm.addr(0xA11CE + 2), address(reenterer)];
        recipients = [address(0xCAFE), address(0xBEEF), address(refuser), address(reenterer)];
    }

    // ---- acts

    function fund(uint256 from, uint256 toDeposit, uint256 toReserve) external {
        address sender = senderAt(from);
        (toDeposit, toReserve) = (bound(toDeposit, 1, 10 ether), bound(toReserve, 1, 10 ether));
        didFund(sender, toDeposit, toReserve);
        vm.deal(address(this), toDeposit + toReserve);
        broker.fundDeposit{ value: toDeposit }(sender);
        broker.fundReserve{ value: toReserve }(sender);
    }

    /// @dev Up to three at once, the same recipient perhaps among them twice; then one wei too much for another.
    function allocate(uint256 from, uint256 seed) external {
        address sender = senderAt(from);
        ITicketBroker.Funds memory funds;
        seed = next(seed);
        for (uint256 count = seed % 3 + 1; count != 0; --count) {
            seed = next(seed);
            ITicketBroker.Allocation[] memory list = new ITicketBroker.Allocation[](1 + seed % 2);
            for (uint256 i = 0; i < list.length; ++i) {
                list[i].recipient = recipientAt(next(seed) + i);
                funds = broker.funds(sender, list[i].recipient);
                uint256 free = (funds.reserve - funds.allocated) / list.length + funds.allocation;
                list[i].amount = uint96(bound(next(seed + i), 0, free));
                didAllocate(sender, list[i].recipient, list[i].amount);
            }
            vm.prank(sender);
            broker.allocate(list);
            funds = broker.funds(sender, list[0].recipient);
            refuses(sender, allocateCall(list[0].recipient, funds.reserve - funds.allocated + funds.allocation + 1));
        }
    }

    function authoriseSigner(uint256 from, uint256 which) external {
        address sender = senderAt(from);
        address signer = vm.addr(signerKey(from, which));
        validUntil[sender][signer] = type(uint64).max;
        vm.prank(sender);
        broker.authoriseSigner(signer);
    }

    function revokeSigner(uint256 from, uint256 which) external {
        address sender = senderAt(from);
        address signer = vm.addr(signerKey(from, which));
        if (validUntil[sender][signer] != type(uint64).max) {
            refuses(sender, abi.encodeCall(ITicketBroker.revokeSigner, (signer)));
            return;
        }
        validUntil[sender][signer] = nowIs + UNLOCK_PERIOD;
        vm.prank(sender);
        broker.revokeSigner(signer);
    }

    function unlock(uint256 from) external {
        address sender = senderAt(from);
        if (unlockAt[sender] != 0) {
            refuses(sender, abi.encodeCall(ITicketBroker.unlock, ()));
            return;
        }
        unlockAt[sender] = nowIs + UNLOCK_PERIOD;
        vm.prank(sender);
        broker.unlock();
    }

    /// @dev Rarely, so that there is more to withdraw.
    function cancelUnlock(uint256 from) external {
        address sender = senderAt(from);
        if (from / senders.length % 3 != 0) return;
        if (unlockAt[sender] == 0) {
            refuses(sender, abi.encodeCall(ITicketBroker.cancelUnlock, ()));
            return;
        }
        unlockAt[sender] = 0;
        vm.prank(sender);
        broker.cancelUnlock();
    }

    function withdrawDeposit(uint256 from, uint256 amount, uint256 seed) external {
        address sender = senderAt(from);
        if (!isUnlocked(sender)) {
            refuses(sender, abi.encodeCall(ITicketBroker.withdrawDeposit, (0, AWAY)));
            return;
        }
        uint96 held = broker.funds(sender, address(0)).deposit;
        refuses(sender, abi.encodeCall(ITicketBroker.withdrawDeposit, (held + 1, AWAY)));
        address payable to = destination(seed);
        amount = bound(amount, 0, held);
        didWithdraw(sender, to, amount, 0);
        arm(seed, Nested.WithdrawDeposit);
        vm.prank(sender);
        broker.withdrawDeposit(uint96(amount), to);
        settle();
    }

    function withdrawReserve(uint256 from, uint256 amount, uint256 seed) external {
        address sender = senderAt(from);
        if (!isUnlocked(sender)) {
            refuses(sender, abi.encodeCall(ITicketBroker.withdrawReserve, (0, AWAY)));
            return;
        }
        ITicketBroker.Funds memory funds = broker.funds(sender, address(0));
        uint96 free = funds.reserve - funds.allocated;
        refuses(sender, abi.encodeCall(ITicketBroker.withdrawReserve, (free + 1, AWAY)));
        address payable to = destination(seed);
        amount = bound(amount, 0, free);
        didWithdraw(sender, to, 0, amount);
        arm(seed, Nested.WithdrawReserve);
        vm.prank(sender);
        broker.withdrawReserve(uint96(amount), to);
        settle();
    }

    /// @dev One batch or two in a call, of which the second may be the first again.
    function redeem(uint256 seed, bool twice) external {
        seed = next(seed);
        Draft[] memory drafts = new Draft[](twice ? 2 : 1);
        ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](drafts.length);
        uint256[] memory expected = new uint256[](drafts.length);
        for (uint256 i = 0; i < drafts.length; ++i) {
            drafts[i] = i == 1 && seed % 3 == 0 ? drafts[0] : draftOf(next(seed + i));
            batches[i] = batchOf(drafts[i]);
        }
        arm(seed, Nested.RedeemTheSame);
        if (nested == Nested.RedeemTheSame) {
            nestedDraft = drafts[0];
            reenterer.arm(abi.encodeCall(ITicketBroker.redeem, (batches)));
        }
        for (uint256 i = 0; i < drafts.length; ++i) {
            expected[i] = didRedeem(drafts[i]);
        }
        uint256[] memory amounts = broker.redeem(batches);
        for (uint256 i = 0; i < drafts.length; ++i) {
            vm.assertEq(amounts[i], expected[i], "not what the tickets are worth");
        }
        settle();
    }

    function withdrawCredit(bool ofReenterer, uint256 seed) external {
        address recipient = ofReenterer ? address(reenterer) : address(refuser);
        uint256 amount = broker.credit(recipient);
        if (amount == 0) return;
        address payable to = destination(seed);
        creditWithdrawn[recipient] += amount;
        withdrawnTo[to] += amount;
        arm(seed, Nested.WithdrawCredit);
        vm.prank(recipient);
        broker.withdrawCredit(to);
        settle();
    }

    function refuse(bool takes, uint256 which) external {
        if (which % 3 != 0) refuser.take(takes);
        else reenterer.take(takes);
    }

    function warp(uint256 by) external {
        nowIs += bound(by, 1 hours, 1 days);
        vm.warp(nowIs);
    }

    /// @notice All senders withdraw what they can, then all recipients draw what they were promised, and must get it.
    function runOnTheBank() external {
        reenterer.arm("");
        for (uint256 i = 0; i < senders.length; ++i) {
            withdrawAll(senders[i]);
            uint256 key = i == 3 ? signerKey(3, 0) : 0xA11CE + i;
            if (i == 3) {
                vm.prank(senders[i]);
                broker.authoriseSigner(vm.addr(key));
            }
            for (uint256 j = 0; j < recipients.length; ++j) {
                uint256 due = promised(senders[i], recipients[j]);
                if (due == 0) continue;
                due += broker.funds(senders[i], recipients[j]).deposit;
                ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](1);
                batches[0] = batchOf(draftFor(senders[i], recipients[j], due, key));
                vm.assertEq(broker.redeem(batches)[0], due, "a promise was broken");
            }
        }
    }

    // ---- what invariants ask

    function senderCount() external view returns (uint256) {
        return senders.length;
    }

    function recipientCount() external view returns (uint256) {
        return recipients.length;
    }

    function senderAt(uint256 index) public view returns (address) {
        return senders[index % senders.length];
    }

    function recipientAt(uint256 index) public view returns (address) {
        return recipients[index % recipients.length];
    }

    function signerKey(uint256 from, uint256 which) public view returns (uint256) {
        // The last one is shared by all senders.
        return which % SIGNERS == SIGNERS - 1 ? 0x5A12ED : 0xB0B + from % senders.length * SIGNERS + which % SIGNERS;
    }

    // ---- re-entering

    /// @dev With anything, or with the same that is about to be done.
    function arm(uint256 seed, Nested same) private {
        seed = next(~seed);
        ITicketBroker.Funds memory funds = broker.funds(address(reenterer), recipientAt(seed));
        nested = seed % 2 == 0 ? same : Nested(seed / 2 % (uint256(type(Nested).max) + 1));
        nestedRecipient = recipientAt(seed);
        bytes memory call;
        if (nested == Nested.Redeem) {
            nestedDraft = draftOf(next(seed));
            ITicketBroker.RedemptionBatch[] memory batches = new ITicketBroker.RedemptionBatch[](1);
            batches[0] = batchOf(nestedDraft);
            call = abi.encodeCall(ITicketBroker.redeem, (batches));
        } else if (nested == Nested.WithdrawCredit) {
            nestedAmount = uint96(broker.credit(address(reenterer)));
            call = abi.encodeCall(ITicketBroker.withdrawCredit, (AWAY));
        } else if (nested == Nested.WithdrawDeposit) {
            nestedAmount = uint96(bound(next(seed), funds.deposit / 2, funds.deposit));
            call = abi.encodeCall(ITicketBroker.withdrawDeposit, (nestedAmount, AWAY));
        } else if (nested == Nested.WithdrawReserve) {
            nestedAmount = uint96(bound(next(seed), 0, funds.reserve - funds.allocated));
            call = abi.encodeCall(ITicketBroker.withdrawReserve, (nestedAmount, AWAY));
        } else if (nested == Nested.Allocate) {
            nestedAmount = uint96(bound(next(seed), 0, funds.reserve - funds.allocated + funds.allocation));
            call = allocateCall(nestedRecipient, nestedAmount);
        } else if (nested == Nested.Unlock) {
            call = abi.encodeCall(ITicketBroker.unlock, ());
        } else if (nested == Nested.CancelUnlock) {
            call = abi.encodeCall(ITicketBroker.cancelUnlock, ());
        } else if (nested == Nested.Revoke) {
            call = abi.encodeCall(ITicketBroker.revokeSigner, (vm.addr(signerKey(3, 0))));
        }
        reenterer.arm(call);
    }

    /// @dev What was done from within a call must have come after all that the call itself did.
    function settle() private {
        if (!reenterer.succeeded()) return;
        address self = address(reenterer);
        if (nested == Nested.Redeem || nested == Nested.RedeemTheSame) {
            didRedeem(nestedDraft);
        } else if (nested == Nested.WithdrawCredit) {
            creditWithdrawn[self] += nestedAmount;
            withdrawnTo[AWAY] += nestedAmount;
        } else if (nested == Nested.WithdrawDeposit) {
            didWithdraw(self, AWAY, nestedAmount, 0);
        } else if (nested == Nested.WithdrawReserve) {
            didWithdraw(self, AWAY, 0, nestedAmount);
        } else if (nested == Nested.Allocate) {
            didAllocate(self, nestedRecipient, nestedAmount);
        } else if (nested == Nested.Unlock) {
            vm.assertEq(unlockAt[self], 0);
            unlockAt[self] = nowIs + UNLOCK_PERIOD;
        } else if (nested == Nested.CancelUnlock) {
            unlockAt[self] = 0;
        } else if (nested == Nested.Revoke) {
            validUntil[self][vm.addr(signerKey(3, 0))] = nowIs + UNLOCK_PERIOD;
        }
    }

    // ---- making tickets

    /// @dev Few nonces and face values, so that many tickets are tried again; or all that there is, or a wei more.
    function draftOf(uint256 seed) private view returns (Draft memory draft) {
        // The re-entering contract to itself more often than chance would have it.
        bool toItself = next(seed + 9) % 4 == 0;
        uint256 from = toItself ? 3 : seed % senders.length;
        (address sender, address recipient) = (senderAt(from), recipientAt(toItself ? 3 : seed / 7));
        uint256 everything = deposit[sender] + promised(sender, recipient);
        uint256 kind = next(seed) % 8;
        uint256 faceValue = kind < 4 ? 1 ether : kind < 6 ? 3 ether : kind == 6 ? everything : everything + 1;
        draft.params = paramsOf(sender, recipient, faceValue, type(uint256).max / 4 * 3);
        if (kind == 5) draft.params.expiry = EARLY;
        draft.recipientRand = next(seed + 1) % 16 == 0 ? bytes32(seed) : RAND;
        draft.senderNonces = new uint32[](3);
        draft.keys = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            draft.senderNonces[i] = uint32(next(seed + 2 + i) % SENDER_NONCES);
            draft.keys[i] = keyOf(from, next(seed + 5 + i) % 8);
        }
    }

    /// @dev The sender's own, one of its signers', another sender's signer's, or a stranger's.
    function keyOf(uint256 from, uint256 kind) private view returns (uint256) {
        if (kind < 3) return from == 3 ? signerKey(from, kind) : 0xA11CE + from;
        if (kind < 6) return signerKey(from, kind);
        return kind == 6 ? signerKey(from + 1, 0) : STRANGER;
    }

    /// @dev One ticket that wins, of a set that nothing else uses.
    function draftFor(address sender, address recipient, uint256 faceValue, uint256 key)
        private
        pure
        returns (Draft memory draft)
    {
        draft.params = paramsOf(sender, recipient, faceValue, type(uint256).max);
        draft.recipientRand = RAND;
        draft.senderNonces = new uint32[](1);
        draft.keys = new uint256[](1);
        draft.keys[0] = key;
    }

    function paramsOf(address sender, address recipient, uint256 faceValue, uint256 winProb)
        private
        pure
        returns (ITicketBroker.TicketParams memory)
    {
        return ITicketBroker.TicketParams({
            sender: sender,
            recipient: recipient,
            faceValue: faceValue,
            winProb: winProb,
            expiry: type(uint64).max,
            commitment: keccak256(abi.encode(RAND))
        });
    }

    function batchOf(Draft memory draft) private view returns (ITicketBroker.RedemptionBatch memory batch) {
        (batch.params, batch.recipientRand) = (draft.params, draft.recipientRand);
        for (uint256 i = 0; i < draft.senderNonces.length; ++i) {
            batch.tickets = bytes.concat(batch.tickets, bytes4(draft.senderNonces[i]), sign(draft, i));
        }
    }

    // ---- internals

    function withdrawAll(address sender) private {
        if (!isUnlocked(sender)) return;
        ITicketBroker.Funds memory funds = broker.funds(sender, address(0));
        vm.prank(sender);
        broker.withdrawDeposit(funds.deposit, AWAY);
        vm.prank(sender);
        broker.withdrawReserve(funds.reserve - funds.allocated, AWAY);
    }

    function refuses(address sender, bytes memory call) private {
        vm.prank(sender);
        (bool succeeded,) = address(broker).call(call);
        vm.assertFalse(succeeded);
    }

    function allocateCall(address recipient, uint96 amount) private pure returns (bytes memory) {
        ITicketBroker.Allocation[] memory list = new ITicketBroker.Allocation[](1);
        list[0] = ITicketBroker.Allocation({ recipient: recipient, amount: amount });
        return abi.encodeCall(ITicketBroker.allocate, (list));
    }

    function destination(uint256 seed) private view returns (address payable) {
        return seed % 4 == 0 || !reenterer.takes() ? AWAY : payable(address(reenterer));
    }

    function next(uint256 seed) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed)));
    }
}
