// SPDX-License-Identifier: MIT
pragma solidity 0.8.37;

import { ITicketBroker } from "./ITicketBroker.sol";

/// @title TicketBroker
/// @notice See ITicketBroker. Every function changes its state before it calls out, so re-entering finds nothing to take.
contract TicketBroker is ITicketBroker {
    /// @dev Fills one slot, and a second for `allocated`: the sum of the sender's allocations, at most `reserve`.
    struct Account {
        uint96 deposit;
        uint96 reserve;
        uint64 unlockAt;
        uint96 allocated;
    }

    /// @dev One slot. `amount` falls to `loweredTo` at `lowersAt`, if that is not zero; see `_effective`.
    struct AllocationState {
        uint96 amount;
        uint96 loweredTo;
        uint64 lowersAt;
    }

    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant PARAMS_TYPE = keccak256(
        "TicketParams(address sender,address recipient,uint256 faceValue,uint256 winProb,uint64 expiry,bytes32 commitment)"
    );
    bytes32 private constant TICKET_TYPE = keccak256(
        "Ticket(TicketParams params,uint32 senderNonce)TicketParams(address sender,address recipient,uint256 faceValue,uint256 winProb,uint64 expiry,bytes32 commitment)"
    );

    uint256 private constant TICKET_LENGTH = 68;
    bytes32 private constant PARITY_MASK = bytes32(uint256(1) << 255);
    /// @dev Half the order of secp256k1, rounded down: a signature with a higher `s` has a twin with a lower one.
    uint256 private constant MAX_S = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;
    /// @dev What a recipient gets to take a payment with: enough for a contract wallet, too little to harm a batch.
    uint256 private constant PAYMENT_GAS = 50_000;
    /// @dev What must be left to give it: 1/64 is kept back, and the call itself costs up to 36,600.
    uint256 private constant GAS_BEFORE_PAYMENT = 90_000;

    /// @inheritdoc ITicketBroker
    uint64 public immutable unlockPeriod;
    uint256 private immutable _deploymentChainId;
    bytes32 private immutable _deploymentSeparator;

    mapping(address sender => Account account) private _accounts;
    mapping(address sender => mapping(address recipient => AllocationState state)) private _allocations;
    /// @inheritdoc ITicketBroker
    mapping(address sender => mapping(address signer => uint64 validUntil)) public signerValidUntil;
    mapping(bytes32 paramsHash => mapping(uint256 word => uint256 bits)) private _redeemed;
    /// @inheritdoc ITicketBroker
    mapping(address recipient => uint256 amount) public credit;

    constructor(uint32 unlockPeriod_) {
        require(unlockPeriod_ != 0, UnlockPeriodZero());
        unlockPeriod = unlockPeriod_;
        _deploymentChainId = block.chainid;
        _deploymentSeparator = _separator();
    }

    // ---------------------------------------------------------------------------------------------------- funding

    /// @inheritdoc ITicketBroker
    function fundDeposit(address sender) external payable {
        _checkAddress(sender);
        _accounts[sender].deposit += _receivedWei();
        emit DepositFunded(sender, msg.sender, msg.value);
    }

    /// @inheritdoc ITicketBroker
    function fundReserve(address sender) external payable {
        _checkAddress(sender);
        _accounts[sender].reserve += _receivedWei();
        emit ReserveFunded(sender, msg.sender, msg.value);
    }

    /// @inheritdoc ITicketBroker
    function allocate(Allocation[] calldata allocations) external {
        for (uint256 i = 0; i < allocations.length; ++i) {
            _allocate(_accounts[msg.sender], allocations[i].recipient, allocations[i].amount);
        }
    }

    /// @inheritdoc ITicketBroker
    function authoriseSigner(address signer) external {
        _checkAddress(signer);
        signerValidUntil[msg.sender][signer] = type(uint64).max;
        emit SignerAuthorised(msg.sender, signer);
    }

    /// @inheritdoc ITicketBroker
    function revokeSigner(address signer) external {
        require(signerValidUntil[msg.sender][signer] == type(uint64).max, SignerNotAuthorised(signer));
        uint64 validUntil = _afterUnlockPeriod();
        signerValidUntil[msg.sender][signer] = validUntil;
        emit SignerRevoked(msg.sender, signer, validUntil);
    }

    // ------------------------------------------------------------------------------------------------- withdrawing

    /// @inheritdoc ITicketBroker
    function unlock() external {
        Account storage account = _accounts[msg.sender];
        require(account.unlockAt == 0, UnlockUnderWay(account.unlockAt));
        uint64 unlockAt = _afterUnlockPeriod();
        account.unlockAt = unlockAt;
        emit UnlockStarted(msg.sender, unlockAt);
    }

    /// @inheritdoc ITicketBroker
    function cancelUnlock() external {
        Account storage account = _accounts[msg.sender];
        require(account.unlockAt != 0, NotUnlocking());
        account.unlockAt = 0;
        emit UnlockCancelled(msg.sender);
    }

    /// @inheritdoc ITicketBroker
    function withdrawDeposit(uint96 amount, address payable to) external {
        Account storage account = _unlockedAccount();
        require(amount <= account.deposit, DepositTooSmall(account.deposit, amount));
        account.deposit -= amount;
        emit DepositWithdrawn(msg.sender, to, amount);
        _send(to, amount);
    }

    /// @inheritdoc ITicketBroker
    function withdrawReserve(uint96 amount, address payable to) external {
        Account storage account = _unlockedAccount();
        uint96 free = account.reserve - account.allocated;
        require(amount <= free, ReserveTooSmall(free, amount));
        account.reserve -= amount;
        emit ReserveWithdrawn(msg.sender, to, amount);
        _send(to, amount);
    }

    /// @inheritdoc ITicketBroker
    function withdrawCredit(address payable to) external {
        uint256 amount = credit[msg.sender];
        require(amount != 0, AmountZero());
        credit[msg.sender] = 0;
        emit CreditWithdrawn(msg.sender, to, amount);
        _send(to, amount);
    }

    // -------------------------------------------------------------------------------------------------- redemption

    /// @inheritdoc ITicketBroker
    function redeem(RedemptionBatch[] calldata batches) external returns (uint256[] memory amounts) {
        amounts = new uint256[](batches.length);
        for (uint256 i = 0; i < batches.length; ++i) {
            amounts[i] = _redeemBatch(batches[i]);
        }
        // Only now, with all state settled, are recipients called; neighbouring batches of one recipient share a call.
        uint256 owed = 0;
        for (uint256 i = 0; i < batches.length; ++i) {
            address recipient = batches[i].params.recipient;
            owed += amounts[i];
            if (i + 1 == batches.length || batches[i + 1].params.recipient != recipient) {
                _pay(recipient, owed);
                owed = 0;
            }
        }
    }

    // ------------------------------------------------------------------------------------------------------- views

    /// @inheritdoc ITicketBroker
    function funds(address sender, address recipient) external view returns (Funds memory) {
        Account storage account = _accounts[sender];
        AllocationState memory state = _allocations[sender][recipient];
        return Funds({
            deposit: account.deposit,
            reserve: account.reserve,
            allocated: account.allocated,
            allocation: _effective(state),
            loweredTo: state.loweredTo,
            lowersAt: state.lowersAt,
            unlockAt: account.unlockAt
        });
    }

    /// @inheritdoc ITicketBroker
    function isRedeemed(bytes32 paramsHash, uint32 senderNonce) public view returns (bool) {
        return _redeemed[paramsHash][senderNonce >> 8] & (1 << (senderNonce & 0xff)) != 0;
    }

    /// @inheritdoc ITicketBroker
    function domainSeparator() public view returns (bytes32) {
        return block.chainid == _deploymentChainId ? _deploymentSeparator : _separator();
    }

    /// @inheritdoc ITicketBroker
    function hashParams(TicketParams calldata params) public pure returns (bytes32) {
        return keccak256(abi.encode(PARAMS_TYPE, params));
    }

    /// @inheritdoc ITicketBroker
    function ticketDigest(TicketParams calldata params, uint32 senderNonce) external view returns (bytes32) {
        return _digest(domainSeparator(), hashParams(params), senderNonce);
    }

    // ---------------------------------------------------------------------------------------------------- internals

    function _allocate(Account storage account, address recipient, uint96 amount) private {
        AllocationState storage state = _allocations[msg.sender][recipient];
        uint96 current = _effective(state);
        uint96 others = account.allocated - state.amount;
        if (amount < current) {
            uint64 lowersAt = _afterUnlockPeriod();
            (state.amount, state.loweredTo, state.lowersAt) = (current, amount, lowersAt);
            account.allocated = others + current;
            emit AllocationLoweringStarted(msg.sender, recipient, amount, lowersAt);
            return;
        }
        uint96 free = account.reserve - others;
        require(amount <= free, ReserveTooSmall(free, amount));
        (state.amount, state.loweredTo, state.lowersAt) = (amount, 0, 0);
        account.allocated = others + amount;
        emit AllocationChanged(msg.sender, recipient, amount);
    }

    /// @dev What a recipient can draw: a lowering counts from its second on, though it is written down only later.
    function _effective(AllocationState memory state) private view returns (uint96) {
        bool lowered = state.lowersAt != 0 && block.timestamp >= state.lowersAt;
        return lowered && state.loweredTo < state.amount ? state.loweredTo : state.amount;
    }

    function _redeemBatch(RedemptionBatch calldata batch) private returns (uint256 amount) {
        TicketParams calldata params = batch.params;
        bytes32 paramsHash = hashParams(params);
        Refusal reason = _checkBatch(batch);
        if (reason != Refusal.None) {
            emit BatchRefused(params.sender, params.recipient, paramsHash, reason);
            return 0;
        }
        uint32[] memory paid = _markWinners(batch, paramsHash);
        if (paid.length == 0) return 0;
        amount = paid.length * params.faceValue;
        uint256 fromReserve = _draw(params.sender, params.recipient, amount);
        emit TicketsRedeemed(params.sender, params.recipient, paramsHash, paid, amount, fromReserve);
    }

    function _checkBatch(RedemptionBatch calldata batch) private view returns (Refusal) {
        if (batch.tickets.length % TICKET_LENGTH != 0) return Refusal.MalformedBatch;
        if (block.timestamp >= batch.params.expiry) return Refusal.Expired;
        if (keccak256(abi.encode(batch.recipientRand)) != batch.params.commitment) return Refusal.WrongReveal;
        return Refusal.None;
    }

    /// @dev Marks the winners that the sender's funds pay for in full as redeemed, and returns their nonces.
    function _markWinners(RedemptionBatch calldata batch, bytes32 paramsHash) private returns (uint32[] memory paid) {
        TicketParams calldata params = batch.params;
        uint256 available = _available(params.sender, params.recipient);
        bytes32 separator = domainSeparator();
        uint256 count = batch.tickets.length / TICKET_LENGTH;
        paid = new uint32[](count);
        uint256 winners = 0;
        for (uint256 i = 0; i < count; ++i) {
            bytes calldata ticket = batch.tickets[i * TICKET_LENGTH:(i + 1) * TICKET_LENGTH];
            uint32 senderNonce = uint32(bytes4(ticket));
            Refusal reason = _judge(batch, ticket, paramsHash, separator);
            if (reason == Refusal.None && params.faceValue > available) reason = Refusal.Unfunded;
            if (reason != Refusal.None) {
                emit TicketRefused(params.sender, params.recipient, paramsHash, senderNonce, reason);
                continue;
            }
            _redeemed[paramsHash][senderNonce >> 8] |= 1 << (senderNonce & 0xff);
            available -= params.faceValue;
            paid[winners++] = senderNonce;
        }
        // Cuts the array to what was filled; it was allocated with `count >= winners` elements.
        assembly ("memory-safe") {
            mstore(paid, winners)
        }
    }

    /// @dev Whether the ticket is new, its signature canonical and by a signer of the sender, and it wins.
    function _judge(RedemptionBatch calldata batch, bytes calldata ticket, bytes32 paramsHash, bytes32 separator)
        private
        view
        returns (Refusal)
    {
        uint32 senderNonce = uint32(bytes4(ticket));
        if (isRedeemed(paramsHash, senderNonce)) return Refusal.AlreadyRedeemed;
        bytes calldata signature = ticket[4:];
        address signer = _recover(_digest(separator, paramsHash, senderNonce), signature);
        if (signer == address(0)) return Refusal.InvalidSignature;
        address sender = batch.params.sender;
        if (signer != sender && block.timestamp >= signerValidUntil[sender][signer]) return Refusal.UnauthorisedSigner;
        uint256 draw = uint256(keccak256(abi.encodePacked(signature, batch.recipientRand)));
        return draw < batch.params.winProb ? Refusal.None : Refusal.NotWinning;
    }

    /// @dev The zero address if the signature is not canonical or belongs to nobody. A signature is 64 bytes by
    /// construction; with a low `s`, no second one by the same signer follows from it without the key.
    function _recover(bytes32 digest, bytes calldata signature) private pure returns (address) {
        bytes32 parityAndS = bytes32(signature[32:]);
        bytes32 s = parityAndS & ~PARITY_MASK;
        if (uint256(s) > MAX_S) return address(0);
        return ecrecover(digest, 27 + uint8(uint256(parityAndS >> 255)), bytes32(signature), s);
    }

    /// @dev What pays the recipient's winners: the deposit, and its own allocation.
    function _available(address sender, address recipient) private view returns (uint256) {
        return uint256(_accounts[sender].deposit) + _effective(_allocations[sender][recipient]);
    }

    /// @dev Takes `amount`, which the caller knows to be there, from the deposit first and then from the allocation.
    function _draw(address sender, address recipient, uint256 amount) private returns (uint256 fromReserve) {
        Account storage account = _accounts[sender];
        uint256 deposit = account.deposit;
        if (amount <= deposit) {
            account.deposit = uint96(deposit - amount);
            return 0;
        }
        fromReserve = amount - deposit;
        AllocationState storage state = _allocations[sender][recipient];
        uint96 left = uint96(_effective(state) - fromReserve);
        account.deposit = 0;
        account.reserve -= uint96(fromReserve);
        account.allocated -= state.amount - left;
        state.amount = left;
    }

    /// @dev Pays a recipient, or credits it if it does not take the payment.
    function _pay(address recipient, uint256 amount) private {
        if (amount == 0) return;
        // Without this, a caller could starve a recipient's contract of gas and so turn its payment into a credit.
        require(gasleft() >= GAS_BEFORE_PAYMENT, GasTooLow(gasleft(), GAS_BEFORE_PAYMENT));
        bool taken;
        // In assembly because Solidity copies what the recipient returns, at the caller's cost.
        assembly ("memory-safe") {
            taken := call(PAYMENT_GAS, recipient, amount, 0, 0, 0, 0)
        }
        if (taken) return;
        credit[recipient] += amount;
        emit PaymentCredited(recipient, amount);
    }

    /// @dev The caller's own money, to where it says, with all the gas there is: whatever fails is undone as a whole.
    function _send(address payable to, uint256 amount) private {
        _checkAddress(to);
        // slither-disable-next-line arbitrary-send-eth,low-level-calls
        (bool taken,) = to.call{ value: amount }("");
        require(taken, TransferFailed(to, amount));
    }

    function _checkAddress(address account) private pure {
        require(account != address(0), AddressZero());
    }

    function _receivedWei() private view returns (uint96) {
        require(msg.value != 0, AmountZero());
        require(msg.value <= type(uint96).max, AmountTooLarge(msg.value));
        return uint96(msg.value);
    }

    function _unlockedAccount() private view returns (Account storage account) {
        account = _accounts[msg.sender];
        uint64 unlockAt = account.unlockAt;
        require(unlockAt != 0, NotUnlocking());
        require(block.timestamp >= unlockAt, StillLocked(unlockAt));
    }

    function _afterUnlockPeriod() private view returns (uint64) {
        return uint64(block.timestamp) + unlockPeriod;
    }

    function _digest(bytes32 separator, bytes32 paramsHash, uint32 senderNonce) private pure returns (bytes32) {
        return keccak256(
            abi.encodePacked("\x19\x01", separator, keccak256(abi.encode(TICKET_TYPE, paramsHash, senderNonce)))
        );
    }

    function _separator() private view returns (bytes32) {
        return keccak256(
            abi.encode(DOMAIN_TYPE, keccak256("TandemTicketBroker"), keccak256("1"), block.chainid, address(this))
        );
    }
}
