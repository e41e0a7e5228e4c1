// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";

/// @notice Recipients that behave badly when they are paid. This one refuses, until it is told to take.
contract Refuser {
    bool public takes;

    function take(bool takes_) external {
        takes = takes_;
    }

    function withdraw(ITicketBroker broker, address payable to) external {
        broker.withdrawCredit(to);
    }

    receive() external payable {
        require(takes, "no");
    }
}

/// @notice Spends whatever gas it is given.
contract Burner {
    receive() external payable {
        while (true) { }
    }
}

/// @notice Returns as much as its gas allows, for the caller to copy.
contract Bomber {
    receive() external payable {
        assembly {
            return(0, 100000)
        }
    }
}

/// @notice Calls the broker in the midst of a payment to itself, with whatever it was armed with, once.
contract Reenterer {
    ITicketBroker private immutable broker;
    bytes private call;
    bool public takes = true;
    bool public transient entered;
    bool public transient succeeded;

    constructor(ITicketBroker broker_) {
        broker = broker_;
    }

    function take(bool takes_) external {
        takes = takes_;
    }

    function arm(bytes calldata call_) external {
        (call, entered, succeeded) = (call_, false, false);
    }

    receive() external payable {
        require(takes, "no");
        if (entered) return;
        entered = true;
        (bool ok,) = address(broker).call(call);
        succeeded = ok;
    }
}

/// @notice Takes a payment as a contract wallet does: with a slot written anew and an event.
contract Wallet {
    event Received(address from, uint256 amount);

    uint256 public received;

    receive() external payable {
        received += msg.value;
        emit Received(msg.sender, msg.value);
    }
}
