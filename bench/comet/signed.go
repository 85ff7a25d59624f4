package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"sync"

	"github.com/cometbft/cometbft/abci/example/kvstore"
	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/ed25519"
)

// The layout of a medchain transaction: 0x01 || signature(64) || 0x01 || public key(32) || body, the signature over all
// that follows it.
const (
	signatureEnd = 65
	bodyStart    = signatureEnd + 33
)

const codeBadSignature uint32 = 100 // the kvstore's own codes are below

// signedStore is the key-value store for signed transactions. Every node checks each signature itself and once, as
// medchain does: at the door or when the transaction is gossiped (CheckTx), else when a proposal holds it.
type signedStore struct {
	*kvstore.Application

	// CheckTx and the consensus connection may run at the same time.
	mutex   sync.Mutex
	checked map[[sha256.Size]byte]struct{} // found valid and not executed yet; what a mempool holds bounds it
	counted counters
}

// counters is what the query "counters" answers.
type counters struct {
	SignaturesChecked int64 `json:"signatures_checked"`
	Executed          int64 `json:"executed"`
	Refused           int64 `json:"refused"`
}

func newSignedStore(store *kvstore.Application) *signedStore {
	return &signedStore{Application: store, checked: make(map[[sha256.Size]byte]struct{})}
}

// valid checks the signature unless this node did before.
func (app *signedStore) valid(tx []byte) bool {
	if len(tx) < bodyStart || tx[0] != 1 || tx[signatureEnd] != 1 {
		return false
	}
	id := sha256.Sum256(tx)
	app.mutex.Lock()
	_, known := app.checked[id]
	app.mutex.Unlock()
	if known {
		return true
	}
	// CometBFT's own verifier, which keeps public keys expanded: the fastest at hand.
	held := ed25519.PubKey(tx[signatureEnd+1:bodyStart]).VerifySignature(tx[signatureEnd:], tx[1:signatureEnd])
	app.mutex.Lock()
	defer app.mutex.Unlock()
	app.counted.SignaturesChecked++
	if held {
		app.checked[id] = struct{}{}
	}
	return held
}

func (app *signedStore) CheckTx(ctx context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	if !app.valid(req.Tx) {
		return &abci.ResponseCheckTx{Code: codeBadSignature}, nil
	}
	return app.Application.CheckTx(ctx, &abci.RequestCheckTx{Tx: req.Tx[bodyStart:]})
}

// PrepareProposal takes what the mempool offers: all of it has passed CheckTx.
func (app *signedStore) PrepareProposal(
	_ context.Context, req *abci.RequestPrepareProposal,
) (*abci.ResponsePrepareProposal, error) {
	return &abci.ResponsePrepareProposal{Txs: req.Txs}, nil
}

func (app *signedStore) ProcessProposal(
	ctx context.Context, req *abci.RequestProcessProposal,
) (*abci.ResponseProcessProposal, error) {
	for _, tx := range req.Txs {
		found, err := app.CheckTx(ctx, &abci.RequestCheckTx{Tx: tx})
		if err != nil || found.IsErr() {
			return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_REJECT}, err
		}
	}
	return &abci.ResponseProcessProposal{Status: abci.ResponseProcessProposal_ACCEPT}, nil
}

// FinalizeBlock checks what was in no proposal that this node saw, and has the store execute the bodies.
func (app *signedStore) FinalizeBlock(
	ctx context.Context, req *abci.RequestFinalizeBlock,
) (*abci.ResponseFinalizeBlock, error) {
	bodies, places := make([][]byte, 0, len(req.Txs)), make([]int, 0, len(req.Txs))
	results := make([]*abci.ExecTxResult, len(req.Txs))
	for i, tx := range req.Txs {
		if app.valid(tx) {
			bodies, places = append(bodies, tx[bodyStart:]), append(places, i)
		} else {
			results[i] = &abci.ExecTxResult{Code: codeBadSignature}
		}
	}
	inner := *req
	inner.Txs = bodies
	response, err := app.Application.FinalizeBlock(ctx, &inner)
	if err != nil {
		return nil, err
	}
	for i, result := range response.TxResults {
		results[places[i]] = result
	}
	response.TxResults = results
	app.mutex.Lock()
	defer app.mutex.Unlock()
	app.counted.Executed += int64(len(bodies))
	app.counted.Refused += int64(len(req.Txs) - len(bodies))
	for _, tx := range req.Txs {
		delete(app.checked, sha256.Sum256(tx))
	}
	return response, nil
}

func (app *signedStore) Query(ctx context.Context, req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	if req.Path != "counters" {
		return app.Application.Query(ctx, req)
	}
	app.mutex.Lock()
	defer app.mutex.Unlock()
	value, err := json.Marshal(app.counted)
	return &abci.ResponseQuery{Value: value}, err
}
