// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

/// @title ITicketBroker
/// @notice Pays signed probabilistic tickets out of what their senders deposited. No owner, no pause, no upgrade.
///
/// A sender has a deposit, shared by all its recipients and spent first, and a reserve, parts of which it allocates to
/// single recipients. A recipient can always count on its own allocation: lowering it, like withdrawing and like
/// revoking a signer, takes the unlock period, in which every winner can still be redeemed. It can count on nothing
/// else: a sender's tickets to others, and so to itself, draw on the deposit at any time, and what is not allocated can
/// be allocated to anyone.
///
/// A ticket wins if `uint256(keccak256(signature ‖ recipientRand)) < winProb`. It is EIP-712 typed data:
///   TicketParams(address sender,address recipient,uint256 faceValue,uint256 winProb,uint64 expiry,bytes32 commitment)
///   Ticket(TicketParams params,uint32 senderNonce)
/// under the domain {name: "TandemTicketBroker", version: "1", chainId, verifyingContract}.
interface ITicketBroker {
    /// @notice What a recipient lets a sender sign tickets for.
    /// @param faceValue Wei that a winner pays.
    /// @param winProb Threshold out of 2**256.
    /// @param expiry Second of Unix time from which on nothing is paid.
    /// @param commitment keccak256 of the recipient's 32 random bytes.
    struct TicketParams {
        address sender;
        address recipient;
        uint256 faceValue;
        uint256 winProb;
        uint64 expiry;
        bytes32 commitment;
    }

    /// @notice Tickets under one set of parameters, to be redeemed together since the first reveals `recipientRand`.
    /// @param tickets 68 bytes each: 4 of sender nonce (big-endian), 64 of compact signature (EIP-2098).
    struct RedemptionBatch {
        TicketParams params;
        bytes32 recipientRand;
        bytes tickets;
    }

    /// @notice A part of the caller's reserve, in wei, to be promised to a recipient.
    struct Allocation {
        address recipient;
        uint96 amount;
    }

    /// @notice What stands behind a sender's tickets to one recipient.
    /// @param deposit Shared by all recipients, spent first.
    /// @param reserve All of it, allocated or not.
    /// @param allocated The part of the reserve that is bound by allocations, to whichever recipient.
    /// @param allocation What this recipient alone can draw, now.
    /// @param loweredTo The most that the allocation is from `lowersAt` on; without meaning if that is zero.
    /// @param lowersAt Second at which a lowering takes effect; zero if none is under way.
    /// @param unlockAt Second from which on the sender may withdraw; zero if it has not started to unlock.
    struct Funds {
        uint96 deposit;
        uint96 reserve;
        uint96 allocated;
        uint96 allocation;
        uint96 loweredTo;
        uint64 lowersAt;
        uint64 unlockAt;
    }

    /// @notice Why a ticket, or a whole batch, was not paid. Nothing about it changed: it may be redeemed later.
    enum Refusal {
        None,
        MalformedBatch,
        Expired,
        WrongReveal,
        AlreadyRedeemed,
        InvalidSignature,
        UnauthorisedSigner,
        NotWinning,
        Unfunded
    }

    event DepositFunded(address indexed sender, address indexed funder, uint256 amount);
    event ReserveFunded(address indexed sender, address indexed funder, uint256 amount);
    event DepositWithdrawn(address indexed sender, address indexed to, uint256 amount);
    event ReserveWithdrawn(address indexed sender, address indexed to, uint256 amount);
    event UnlockStarted(address indexed sender, uint64 unlockAt);
    event UnlockCancelled(address indexed sender);
    /// @notice The allocation is `amount` as of now.
    event AllocationChanged(address indexed sender, address indexed recipient, uint256 amount);
    /// @notice The allocation is at most `amount` from `lowersAt` on, unless it is set anew before.
    event AllocationLoweringStarted(address indexed sender, address indexed recipient, uint256 amount, uint64 lowersAt);
    event SignerAuthorised(address indexed sender, address indexed signer);
    /// @notice The signer's tickets are good until `validUntil`.
    event SignerRevoked(address indexed sender, address indexed signer, uint64 validUntil);
    /// @notice The tickets with these nonces were paid, `amount` wei in all, of it `fromReserve` from the allocation.
    event TicketsRedeemed(
        address indexed sender,
        address indexed recipient,
        bytes32 indexed paramsHash,
        uint32[] senderNonces,
        uint256 amount,
        uint256 fromReserve
    );
    event TicketRefused(
        address indexed sender,
        address indexed recipient,
        bytes32 indexed paramsHash,
        uint32 senderNonce,
        Refusal reason
    );
    event BatchRefused(address indexed sender, address indexed recipient, bytes32 indexed paramsHash, Refusal reason);
    /// @notice The recipient did not take the transfer; it can withdraw the amount to an address of its choice.
    event PaymentCredited(address indexed recipient, uint256 amount);
    event CreditWithdrawn(address indexed recipient, address indexed to, uint256 amount);

    error UnlockPeriodZero();
    error AmountZero();
    error AmountTooLarge(uint256 amount);
    error ReserveTooSmall(uint256 free, uint256 wanted);
    error DepositTooSmall(uint256 deposit, uint256 wanted);
    error UnlockUnderWay(uint64 unlockAt);
    error NotUnlocking();
    error StillLocked(uint64 unlockAt);
    /// @notice Money, or a right, for nobody: a mistake of the caller's.
    error AddressZero();
    error SignerNotAuthorised(address signer);
    error GasTooLow(uint256 gasLeft, uint256 needed);
    error TransferFailed(address to, uint256 amount);

    /// @notice Adds the sent wei to `sender`'s deposit. Anyone may fund anyone.
    function fundDeposit(address sender) external payable;

    /// @notice Adds the sent wei to `sender`'s reserve. Anyone may fund anyone.
    function fundReserve(address sender) external payable;

    /// @notice Sets what of the caller's reserve each recipient alone may draw. Raising is immediate, and undoes a
    /// lowering under way. Lowering takes effect after the unlock period; the same call made then, or any later one
    /// for that recipient, also frees the difference for other recipients or for withdrawal.
    function allocate(Allocation[] calldata allocations) external;

    /// @notice Lets `signer` sign the caller's tickets, and nothing else. Undoes a revocation, under way or past: what
    /// the signer signed before then counts again.
    function authoriseSigner(address signer) external;

    /// @notice Ends the authorisation after the unlock period. Senders themselves always may sign.
    function revokeSigner(address signer) external;

    /// @notice Starts the unlock period of the caller's deposit and of its reserve beyond the allocations. Both stay
    /// unlocked, with whatever is added to them, until the caller cancels; so look at `unlockAt` before trusting either.
    function unlock() external;

    /// @notice Locks the caller's funds again.
    function cancelUnlock() external;

    /// @notice Sends wei of the caller's deposit to `to`, once unlocked.
    function withdrawDeposit(uint96 amount, address payable to) external;

    /// @notice Sends wei of the caller's reserve to `to`, once unlocked; never what is allocated.
    function withdrawReserve(uint96 amount, address payable to) external;

    /// @notice Pays all winners that can be paid in full; whoever calls, the money goes to each batch's recipient.
    /// Whatever cannot be paid is skipped, with `TicketRefused` or `BatchRefused`, and stays as it was.
    /// @return amounts Wei paid for each batch.
    function redeem(RedemptionBatch[] calldata batches) external returns (uint256[] memory amounts);

    /// @notice Sends all of the caller's credit, from payments that it did not take, to `to`.
    function withdrawCredit(address payable to) external;

    /// @notice What stands behind `sender`'s tickets to `recipient`.
    function funds(address sender, address recipient) external view returns (Funds memory);

    /// @notice Until when (Unix seconds) tickets of `sender` signed by `signer` are good: 0 for never, and the largest
    /// uint64 for no end.
    function signerValidUntil(address sender, address signer) external view returns (uint64);

    /// @notice Whether the ticket was paid.
    function isRedeemed(bytes32 paramsHash, uint32 senderNonce) external view returns (bool);

    /// @notice Wei that `recipient` can withdraw because it did not take a payment.
    function credit(address recipient) external view returns (uint256);

    /// @notice Seconds that withdrawing, lowering an allocation and revoking a signer take.
    function unlockPeriod() external view returns (uint64);

    /// @notice EIP-712's domain separator, of the chain as it is now.
    function domainSeparator() external view returns (bytes32);

    /// @notice EIP-712's hashStruct of the parameters.
    function hashParams(TicketParams calldata params) external pure returns (bytes32);

    /// @notice What a ticket's signature covers.
    function ticketDigest(TicketParams calldata params, uint32 senderNonce) external view returns (bytes32);
}
