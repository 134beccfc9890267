// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
)

// runtimeDir is where what is only remembered lies, until the machine is
// restarted: locks, and what is known of files so that they need not be read
// again.
const runtimeDir = "/run/libwasmshim"

// Dir is the directory of one containerd's namespace in runtimeDir. containerd
// takes no namespace that has a slash in it.
func Dir(address, namespace string) string {
	return filepath.Join(runtimeDir, filepath.Base(namespace)+"-"+sum(filepath.Clean(address))[:16])
}

// maxRecords is how many records a namespace keeps; the oldest go.
const maxRecords = 1024

// record is what is known of a guest's code. It saves work, and decides nothing:
// without it everything is asked and read again.
type record struct {
	Root   string          `json:"root,omitempty"` // of the content store
	Kind   entrypoint.Kind `json:"kind,omitempty"`
	Layers []knownLayer    `json:"layers,omitempty"`
	// NotCompiled says why there are no artifacts, and until when none need be
	// looked for.
	NotCompiled *failure `json:"notCompiled,omitempty"`
	// Refused are artifacts that the engine could not load, Remade is set once
	// others have been made in their place.
	Refused []digest.Digest `json:"refused,omitempty"`
	Remade  bool            `json:"remade,omitempty"`
}

type knownLayer struct {
	MediaType string        `json:"mediaType,omitempty"`
	Digest    digest.Digest `json:"digest"`
	Blob      stamp         `json:"blob,omitzero"` // of the blob whose digest it was; not of a file
	Artifact  digest.Digest `json:"artifact,omitempty"`
	Compiled  stamp         `json:"compiled,omitzero"` // of the artifact's blob
}

// failure is why something is not to be tried again for a while.
type failure struct {
	Cause  string          `json:"cause"`
	Until  time.Time       `json:"until"`
	Limits compiler.Limits `json:"limits"` // within others it may not fail
}

func later(why error, within time.Duration, limits compiler.Limits) *failure {
	return &failure{why.Error(), time.Now().Add(within), limits}
}

func (f *failure) holds(limits compiler.Limits) bool {
	return f != nil && time.Now().Before(f.Until) && f.Limits == limits
}

// stamp tells a file from every other, and from itself after any change: the
// kernel sets Changed, nobody can.
type stamp struct {
	Device, Inode           uint64
	Size, Modified, Changed int64
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	return stampFrom(&st), nil
}

func stampFrom(st *unix.Stat_t) stamp {
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
}

// like says whether two names of one file, as an overlay file system gives it,
// have the same content.
func (s stamp) like(t stamp) bool {
	return s.Size == t.Size && s.Modified == t.Modified && s.Changed == t.Changed
}

// settledAt says whether a change of the file after a time would show: a kernel's
// clock for files ticks every few milliseconds.
func (s stamp) settledAt(t time.Time) bool {
	return t.Sub(time.Unix(0, s.Changed)) > 20*time.Millisecond
}

func (s stamp) String() string { return fmt.Sprint(s.Device, s.Inode, s.Size, s.Modified, s.Changed) }

// records are the files of one namespace.
type records struct{ dir string }

func recordsOf(address, namespace string) records { return records{Dir(address, namespace)} }

const recordSuffix = ".json"

// get returns a record, nil if there is none that can be read.
func (r records) get(name string) *record {
	text, err := os.ReadFile(filepath.Join(r.dir, name+recordSuffix))
	if err != nil {
		return nil
	}
	var found record
	if json.Unmarshal(text, &found) != nil {
		return nil
	}
	return &found
}

// put writes a record, in one piece.
func (r records) put(name string, v record) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(r.dir, name+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(r.dir, name+recordSuffix))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return r.prune()
}

func (r records) remove(name string) { _ = os.Remove(filepath.Join(r.dir, name+recordSuffix)) }

// clear removes all records.
func (r records) clear() error {
	names, err := filepath.Glob(filepath.Join(r.dir, "*"+recordSuffix))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prune removes the oldest records, and what writers left that were killed.
func (r records) prune() error {
	type aged struct {
		name string
		at   time.Time
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	var all []aged
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		switch filepath.Ext(e.Name()) {
		case recordSuffix:
			all = append(all, aged{e.Name(), info.ModTime()})
		case ".new":
			if time.Since(info.ModTime()) > time.Minute {
				_ = os.Remove(filepath.Join(r.dir, e.Name()))
			}
		}
	}
	slices.SortFunc(all, func(a, b aged) int { return a.at.Compare(b.at) })
	for ; len(all) > maxRecords; all = all[1:] {
		_ = os.Remove(filepath.Join(r.dir, all[0].name))
	}
	return nil
}
