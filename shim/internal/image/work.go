// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/metrics"
)

// How long something that failed is not tried again.
const (
	failedFor   = 10 * time.Minute          // for a reason that lies in the code
	machineFor  = time.Minute               // for one that lies in the machine: it has no room, or no time
	tooLargeFor = 10 * 365 * 24 * time.Hour // for want of memory: within the same limits it stays so
)

// Work is code that is to be compiled, and what of it is to be kept in containerd's
// content store.
type Work struct {
	Address, Namespace string // of containerd
	Engine             Engine
	Key                string   // see Engine.Key
	Options            []string // that the compiler is shown, "key=value"
	LogLevel           string   // of the engine's lines
	Limits             compiler.Limits
	Place              compiler.Place
	Image              string // its name, for the log
	Kind               entrypoint.Kind
	Layers             []WorkLayer
	Copy               bool // the files may change: they are copied, and what was copied is compiled
	Retry              bool // what has failed before is tried again at once

	Exe      *os.File                      `json:"-"` // the sealed binary
	Log      *log.Entry                    `json:"-"`
	Progress func(what string, size int64) `json:"-"` // told what is done next, with how many bytes, 0 where that is not known; may be nil

	files []*os.File // of the layers
}

// WorkLayer is a layer of the code.
type WorkLayer struct {
	MediaType string        // empty for a file
	Digest    digest.Digest // of the code
	Holder    digest.Digest // the blob in containerd's content store that its artifact belongs to
	Blob      stamp         // of the layer's blob, once its digest was verified
}

// Result is what is known of some code. It is remembered until the machine is
// restarted.
type Result struct {
	Root   string          `json:"root,omitempty"` // of the content store; empty if that is no directory here
	Kind   entrypoint.Kind `json:"kind,omitempty"`
	Layers []ResultLayer   `json:"layers,omitempty"`
	// Compiled says that the engine was asked to compile the code, or that what it
	// had made was found.
	Compiled bool `json:"compiled,omitempty"`
	// Failed is why there are no artifacts, and until when none need be looked for.
	Failed *failure `json:"failed,omitempty"`
}

// ResultLayer is what is known of a layer.
type ResultLayer struct {
	Blob          stamp         `json:"blob,omitzero"` // of the layer's blob
	Artifact      digest.Digest `json:"artifact,omitempty"`
	ArtifactStamp stamp         `json:"artifactStamp,omitzero"`
}

func (w *Work) memory() memory { return memoryOf(w.Address, w.Namespace) }

func (w *Work) counters() metrics.File { return CountersOf(w.Address, w.Namespace, w.Engine.Name) }

// name is the name of what is remembered of the code, and of its lock.
func (w *Work) name() string {
	parts := []string{"code", w.Key, w.Engine.Name}
	for _, l := range w.Layers {
		parts = append(parts, l.MediaType, string(l.Digest))
	}
	return sum(parts...)
}

// compiles says whether the engine is to compile anything ahead.
func (w *Work) compiles() bool { return w.Engine.compilesWithin(w.Limits) }

// turn is how long the work may wait for its turn.
func (w *Work) turn() time.Duration { return max(slotPatience, w.Limits.Time) }

func (w *Work) progress(what string, size int64) {
	if w.Progress != nil {
		w.Progress(what, size)
	}
}

// Run finds the artifacts of the code, or has them made and keeps them. It is the
// only one at that; see lock. The caller looks at Result.Failed.
func (w *Work) Run(ctx context.Context) (_ Result, retErr error) {
	c, err := Dial(w.Address, w.Namespace)
	if err != nil {
		return Result{}, err
	}
	defer func() { retErr = errors.Join(retErr, c.Close()) }()
	r := &run{Work: w, Store: c, result: Result{Kind: w.Kind, Layers: make([]ResultLayer, len(w.Layers))}}
	w.memory().recall(w.name(), &r.before)
	if r.blobs, r.result.Root, err = c.openStore(ctx, w.Log); err != nil {
		return Result{}, err
	}
	defer r.blobs.close()
	for i, l := range w.Layers {
		r.result.Layers[i].Blob = l.Blob
	}
	found, err := r.find(ctx)
	switch {
	case err != nil:
		return Result{}, err
	case found:
		r.result.Compiled = true
	case r.before.Failed.holds(w.Limits) && !w.Retry:
		r.result.Failed = r.before.Failed
	default:
		r.compile(ctx)
	}
	if f := r.result.Failed; f != nil {
		w.Log.WithError(errors.New(f.Cause)).Warn("the guest's original is run, without an artifact")
	}
	if f := r.result.Failed; f == nil || time.Now().Before(f.Until) {
		w.memory().note(w.name(), r.result, w.Log)
	}
	return r.result, nil
}

// run is one call of Run.
type run struct {
	*Work
	Store
	blobs  *blobs // nil where the content store is not a directory here
	before Result // what was remembered
	result Result
}

func (r *run) artifact(i int) artifact {
	l := r.Layers[i]
	return artifact{r.Engine.Name, artifactID(r.Key, r.Layers, i), l.Digest, l.Holder}
}

// find finds the artifacts that are stored, if they all are. What is damaged, or
// refused, is removed.
func (r *run) find(ctx context.Context) (bool, error) {
	all := true
	for i := range r.Layers {
		a := r.artifact(i)
		d, err := r.stored(ctx, a)
		if errdefs.IsNotFound(err) {
			all = false
			continue
		}
		if err != nil {
			return false, err
		}
		if d == nothing {
			continue
		}
		if err := r.verifyArtifact(ctx, d, i); err != nil {
			all = false
			r.Log.WithError(err).Warnf("artifact %s of %s is made anew", d, a.source)
			if err := r.discard(ctx, d); err != nil {
				return false, err
			}
			if err := r.Collect(ctx); err != nil {
				return false, err
			}
			continue
		}
		_ = r.release(ctx, a) // of a process that was killed after it had stored it; it ends by itself
	}
	if !all {
		r.forgetArtifacts()
	}
	return all, nil
}

func (r *run) forgetArtifacts() {
	for i := range r.result.Layers {
		r.result.Layers[i].Artifact, r.result.Layers[i].ArtifactStamp = "", stamp{}
	}
}

// verifyArtifact verifies the artifact of layer i, and remembers it.
func (r *run) verifyArtifact(ctx context.Context, d digest.Digest, i int) error {
	f, err := r.open(ctx, r.blobs, d)
	if err != nil {
		return err
	}
	defer f.Close()
	at, err := stampOf(f)
	if err != nil {
		return err
	}
	r.progress("verify artifact", at.Size)
	if err := verify(f, d, "artifact"); err != nil {
		return err
	}
	r.result.Layers[i].Artifact, r.result.Layers[i].ArtifactStamp = d, at
	return nil
}

// compile has the engine compile the code, and stores what it makes.
func (r *run) compile(ctx context.Context) {
	made, err := r.made(ctx)
	defer compiler.CloseAll(made)
	became := r.became(ctx, err)
	defer func() { r.counters().Count(became) }()
	switch {
	case errors.Is(err, compiler.ErrUnsupported):
		made = make([]*os.File, len(r.Layers))
	case errors.Is(err, compiler.ErrKilled), errors.Is(err, errBusy), ctx.Err() != nil:
		r.fail(err, 0) // the next one may be luckier
		return
	case errors.Is(err, compiler.ErrStarved):
		r.fail(fmt.Errorf("compiling failed: %w", err), machineFor)
		return
	case errors.Is(err, compiler.ErrTooLarge):
		r.fail(fmt.Errorf("compiling failed: %w", err), tooLargeFor)
		return
	case err != nil:
		r.fail(fmt.Errorf("compiling failed: %w", err), failedFor)
		return
	}
	for i, f := range made {
		if err := r.keep(ctx, i, f); err != nil {
			within := machineFor
			if errdefs.IsUnavailable(err) { // containerd is being restarted
				within = 0
			}
			r.forgetArtifacts()
			became = metrics.CompileNotKept
			r.fail(fmt.Errorf("the artifact of %s is not kept: %w", r.Layers[i].Digest, err), within)
			return
		}
	}
	r.result.Compiled = true
}

// became says what became of a compilation, for who counts.
func (r *run) became(ctx context.Context, err error) metrics.Counter {
	switch {
	case err == nil:
		return metrics.CompiledArtifact
	case errors.Is(err, compiler.ErrUnsupported):
		return metrics.CompiledNothing
	case errors.Is(err, errBusy):
		return metrics.CompileNoTurn
	case errors.Is(err, compiler.ErrKilled), ctx.Err() != nil:
		return metrics.CompileKilled
	case errors.Is(err, compiler.ErrStarved):
		return metrics.CompileStarved
	case errors.Is(err, compiler.ErrTooLarge):
		return metrics.CompileTooLarge
	case errors.Is(err, compiler.ErrTooLong):
		return metrics.CompileTooLong
	}
	return metrics.CompileFailed
}

func (r *run) fail(why error, within time.Duration) {
	r.result.Failed = newFailure(why, within, r.Limits)
}

// keep stores what was made of layer i; f is nil if that is nothing.
func (r *run) keep(ctx context.Context, i int, f *os.File) error {
	if f == nil {
		return r.attach(ctx, r.artifact(i), nothing)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r.progress("store", info.Size())
	d, err := r.store(ctx, r.artifact(i), f)
	if err != nil {
		return err
	}
	return r.verifyArtifact(ctx, d, i)
}

// made has the engine make artifacts, nil where it makes none.
func (r *run) made(ctx context.Context) ([]*os.File, error) {
	var size int64
	for _, f := range r.files {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		size += info.Size()
	}
	// Compiling takes many times the memory that the code has.
	if size > r.Limits.Memory/4 {
		return nil, fmt.Errorf("the code has %d MiB, and compiling may take no more than %d MiB of memory (compile_memory): %w", size>>20, r.Limits.Memory>>20, compiler.ErrTooLarge)
	}
	r.progress("wait", 0)
	release, err := compilerSlot(ctx, slotsDir, r.Place.Compilers, r.turn())
	if err != nil {
		return nil, err
	}
	defer release()
	dir, remove, err := WorkDir(r.Address, r.Namespace)
	if err != nil {
		return nil, err
	}
	job := compiler.Job{
		ID: compiler.Name(r.Namespace, filepath.Base(dir)), Dir: dir, Exe: r.Exe, Kind: uint32(r.Kind), Options: r.Options, LogLevel: r.LogLevel,
		Limits: r.Limits, Place: r.Place, Log: r.Log,
	}
	for i, l := range r.Layers {
		f := r.files[i]
		if r.Copy {
			info, err := f.Stat()
			if err != nil {
				return nil, err
			}
			copied, found, err := sealedCopy("guest", io.NewSectionReader(f, 0, info.Size()), info.Size())
			if err != nil {
				return nil, fmt.Errorf("read the guest's file: %w", err)
			}
			defer copied.Close()
			if found != l.Digest {
				return nil, errors.Join(compiler.ErrKilled, errors.New("the guest's file was changed meanwhile"))
			}
			f = copied
		}
		job.Layers = append(job.Layers, compiler.Layer{MediaType: l.MediaType, Digest: string(l.Digest), File: f})
	}
	r.progress("compile", 0)
	begun := time.Now()
	made, err := compiler.Run(ctx, job)
	took := time.Since(begun)
	r.counters().Add(metrics.CompileTime, uint64(took))
	if rerr := remove(); rerr != nil {
		r.Log.WithError(rerr).Warn("the compiler's directory is left")
	}
	if err == nil || errors.Is(err, compiler.ErrUnsupported) {
		r.Log.WithFields(log.Fields{"image": r.Image, "took": took.Round(time.Millisecond), "bytes": size}).Infof("compiled %s", r.Layers[0].Digest)
	}
	return made, err
}
