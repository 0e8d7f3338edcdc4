// Command ledger asks golang.org/x/mod/sumdb what it makes of our log.
//
// It reads one question as JSON on standard input and answers as JSON on
// standard output: the tree, the proofs and the notes it would have written
// itself, and which of our proof documents it accepts.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type question struct {
	Signer   string     `json:"signer"`
	Verifier string     `json:"verifier"`
	Lines    []string   `json:"lines"`
	Proofs   []document `json:"proofs"`
}

// document is either kind of proof that `bud log prove` writes.
type document struct {
	Kind       string      `json:"kind"`
	Seq        int64       `json:"seq"`
	Entry      string      `json:"entry"`
	Checkpoint string      `json:"checkpoint"`
	Old        string      `json:"old"`
	New        string      `json:"new"`
	Hashes     []tlog.Hash `json:"hashes"`
}

type answer struct {
	Roots []tlog.Hash `json:"roots"`
	// Stored[seq] are the hashes to keep for that entry.
	Stored [][]tlog.Hash `json:"stored"`
	// Inclusion[size-1][seq] and Consistency[new-1][old-1].
	Inclusion   [][]tlog.RecordProof `json:"inclusion"`
	Consistency [][]tlog.TreeProof   `json:"consistency"`
	Notes       []string             `json:"notes"`
	// Verdicts are empty where a proof was accepted.
	Verdicts []string `json:"verdicts"`
}

func main() {
	var asked question
	must(json.NewDecoder(os.Stdin).Decode(&asked))
	signer, err := note.NewSigner(asked.Signer)
	must(err)
	verifier, err := note.NewVerifier(asked.Verifier)
	must(err)

	var said answer
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			hashes[i] = stored[index]
		}
		return hashes, nil
	})
	for seq, line := range asked.Lines {
		hashes, err := tlog.StoredHashes(int64(seq), []byte(line), reader)
		must(err)
		stored = append(stored, hashes...)
		said.Stored = append(said.Stored, hashes)
		said.describe(int64(seq)+1, signer, reader)
	}
	for _, proof := range asked.Proofs {
		verdict := ""
		if err := check(proof, note.VerifierList(verifier)); err != nil {
			verdict = err.Error()
		}
		said.Verdicts = append(said.Verdicts, verdict)
	}
	must(json.NewEncoder(os.Stdout).Encode(said))
}

// describe adds everything that can be said of the log's first size entries.
func (said *answer) describe(size int64, signer note.Signer, reader tlog.HashReader) {
	root, err := tlog.TreeHash(size, reader)
	must(err)
	body := fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), size, root)
	signed, err := note.Sign(&note.Note{Text: body}, signer)
	must(err)

	inclusion := make([]tlog.RecordProof, size)
	consistency := make([]tlog.TreeProof, size)
	for i := range size {
		inclusion[i], err = tlog.ProveRecord(size, i, reader)
		must(err)
		consistency[i], err = tlog.ProveTree(size, i+1, reader)
		must(err)
	}
	said.Roots = append(said.Roots, root)
	said.Notes = append(said.Notes, string(signed))
	said.Inclusion = append(said.Inclusion, inclusion)
	said.Consistency = append(said.Consistency, consistency)
}

func check(proof document, known note.Verifiers) error {
	if proof.Kind == "bud.ledger/consistency/v1" {
		oldSize, oldRoot, err := open(proof.Old, known)
		if err != nil {
			return err
		}
		newSize, newRoot, err := open(proof.New, known)
		if err != nil {
			return err
		}
		return tlog.CheckTree(proof.Hashes, newSize, newRoot, oldSize, oldRoot)
	}
	size, root, err := open(proof.Checkpoint, known)
	if err != nil {
		return err
	}
	leaf := tlog.RecordHash([]byte(proof.Entry))
	return tlog.CheckRecord(proof.Hashes, size, root, proof.Seq, leaf)
}

// open reads a C2SP tlog-checkpoint.
func open(text string, known note.Verifiers) (int64, tlog.Hash, error) {
	opened, err := note.Open([]byte(text), known)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 {
		return 0, tlog.Hash{}, fmt.Errorf("a checkpoint of %d lines", len(lines))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	root, err := tlog.ParseHash(lines[2])
	return size, root, err
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
