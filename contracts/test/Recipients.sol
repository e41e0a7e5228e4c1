// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "../src/ITicketBroker.sol";

/// @notice Recipients that behave badly when they are paid.
contract Refuser {
    function withdraw(ITicketBroker broker, address payable to) external {
        broker.withdrawCredit(to);
    }

    receive() external payable {
        revert("no");
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

/// @notice Calls the broker again with the same redemption when it is paid.
contract Reenterer {
    ITicketBroker private immutable broker;
    bytes private call;
    uint256 public entered;

    constructor(ITicketBroker broker_) {
        broker = broker_;
    }

    function arm(bytes calldata call_) external {
        call = call_;
    }

    receive() external payable {
        if (msg.sender != address(broker)) return;
        ++entered;
        (bool succeeded,) = address(broker).call(call);
        succeeded;
    }
}
