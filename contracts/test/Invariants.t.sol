// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";
import { vm } from "./Cheats.sol";
import { Handler } from "./Handler.sol";

/// @notice The broker against the model, after every act of the handler's.
contract InvariantsTest {
    struct Selectors {
        address target;
        bytes4[] selectors;
    }

    Handler private handler;
    ITicketBroker private broker;

    function setUp() public {
        handler = new Handler();
        broker = handler.broker();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function excludeSelectors() external view returns (Selectors[] memory excluded) {
        excluded = new Selectors[](1);
        excluded[0].target = address(handler);
        excluded[0].selectors = new bytes4[](1);
        excluded[0].selectors[0] = Handler.runOnTheBank.selector;
    }

    /// @dev Not a wei is in the broker that is not somebody's, and none is somebody's that is not in the broker.
    function invariant_TheBalanceCoversDepositsReservesAndCredits() public view {
        uint256 paid = 0;
        uint256 held = 0;
        for (uint256 i = 0; i < handler.senderCount(); ++i) {
            address sender = handler.senderAt(i);
            ITicketBroker.Funds memory funds = broker.funds(sender, address(0));
            vm.assertEq(funds.deposit, handler.deposit(sender), "a deposit is not what it must be");
            vm.assertEq(funds.reserve, handler.reserve(sender), "a reserve is not what it must be");
            held += uint256(funds.deposit) + funds.reserve;
        }
        for (uint256 i = 0; i < handler.recipientCount(); ++i) {
            address recipient = handler.recipientAt(i);
            held += broker.credit(recipient);
            paid += handler.paidTo(recipient) - broker.credit(recipient);
        }
        vm.assertEq(address(broker).balance, held, "the balance is not what it is owed");
        vm.assertEq(held, handler.funded() - handler.withdrawn() - paid, "funded is not withdrawn, paid and held");
    }

    /// @dev Every recipient has got, or can withdraw, the full face value of each of its winners that was paid.
    function invariant_RecipientsGotWhatTheirTicketsPaid() public view {
        for (uint256 i = 0; i < handler.recipientCount(); ++i) {
            address recipient = handler.recipientAt(i);
            uint256 got = recipient.balance + broker.credit(recipient) + handler.creditWithdrawn(recipient);
            vm.assertEq(got, handler.paidTo(recipient) + handler.withdrawnTo(recipient), "not paid what was redeemed");
        }
    }

    function invariant_ANonceIsMarkedIfItsTicketWasPaid() public view {
        uint256 count = handler.triedCount();
        for (uint256 i = count < 6 ? 0 : count - 6; i < count; ++i) {
            checkNonce(i);
        }
    }

    /// @dev The same of all tickets, which is much to ask after every act.
    function afterInvariant() external view {
        for (uint256 i = 0; i < handler.triedCount(); ++i) {
            checkNonce(i);
        }
    }

    function invariant_AllocationsAreWhatWasPromised() public view {
        for (uint256 i = 0; i < handler.senderCount(); ++i) {
            address sender = handler.senderAt(i);
            ITicketBroker.Funds memory funds;
            uint256 sum = 0;
            for (uint256 j = 0; j < handler.recipientCount(); ++j) {
                address recipient = handler.recipientAt(j);
                funds = broker.funds(sender, recipient);
                vm.assertEq(funds.allocation, handler.promised(sender, recipient), "not what was promised");
                sum += funds.allocation;
            }
            vm.assertLe(sum, funds.allocated, "allocations exceed what is bound");
            vm.assertLe(funds.allocated, funds.reserve, "more is bound than the reserve holds");
        }
    }

    /// @dev Not by what the broker says, but by what it pays. What an invariant does is undone after it.
    function invariant_EveryPromiseIsPaidInARunOnTheBank() public {
        handler.runOnTheBank();
    }

    function invariant_OnlySendersMoveTheirUnlocksAndSigners() public view {
        for (uint256 i = 0; i < handler.senderCount(); ++i) {
            address sender = handler.senderAt(i);
            vm.assertEq(broker.funds(sender, address(0)).unlockAt, handler.unlockAt(sender), "an unlock was moved");
            for (uint256 j = 0; j < 3; ++j) {
                address signer = vm.addr(handler.signerKey(i, j));
                vm.assertEq(broker.signerValidUntil(sender, signer), handler.validUntil(sender, signer), "a signer");
            }
        }
    }

    // ---- internals

    function checkNonce(uint256 index) private view {
        (bytes32 paramsHash, uint32 senderNonce) = handler.tried(index);
        vm.assertEq(broker.isRedeemed(paramsHash, senderNonce), handler.wasPaid(paramsHash, senderNonce));
    }
}
