// SPDX-License-Identifier: Apache-2.0

// Package docs tests what the documentation says.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// source is all text of Go, C and Rust that is part of a shim.
func source(t *testing.T) string {
	var b strings.Builder
	for _, dir := range []string{"../shim", "../cabi", "../engines"} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			if ext := filepath.Ext(path); ext == ".go" || ext == ".c" || ext == ".h" || ext == ".rs" {
				text, err := os.ReadFile(path)
				b.Write(text)
				return err
			}
			return nil
		}))
	}
	return b.String()
}

// fromOthers are texts of wasmtime's, libcontainer's, containerd's and others'
// own, which are no source here; tests of images meet some of containerd's.
var fromOthers = []string{
	"exec: …: no such file or directory",
	`binary not installed "containerd-shim-…-v1"`,
	"no match for platform in manifest …",
	"context deadline exceeded",
	"no runtime for … is configured",
	"RuntimeClass … not found",
	"text file busy",
	"failed to get runtime v2 options: can't unmarshal type …",
	"wasm trap: …",
	"image might be filtered out",
	"mismatched image rootfs and manifest layers",
	"no unpack platforms defined",
	"unknown image config media type application/vnd.fermyon.spin.application.v1+config",
	"unknown image config media type application/vnd.wasm.config.v0+json",
}

// Every text that the troubleshooting page quotes is one that a shim says, and
// the page is in order.
func TestTroubleshootingQuotes(t *testing.T) {
	page, err := os.ReadFile("troubleshooting.md")
	require.NoError(t, err)
	code := source(t)
	var quotes []string
	for _, m := range regexp.MustCompile("(?m)^### `(.*)`$").FindAllStringSubmatch(string(page), -1) {
		quotes = append(quotes, m[1])
	}
	require.Greater(t, len(quotes), 20)
	key := func(q string) string { return strings.ToLower(strings.TrimLeft(q, "… ")) }
	require.True(t, slices.IsSortedFunc(quotes, func(a, b string) int { return strings.Compare(key(a), key(b)) }), "in alphabetical order")
	requireSaid(t, code, quotes)
}

func requireSaid(t *testing.T, code string, quotes []string) {
	for _, q := range quotes {
		if slices.Contains(fromOthers, q) {
			continue
		}
		for part := range strings.SplitSeq(q, "…") {
			require.True(t, strings.Contains(code, strings.Trim(part, " ")), "nothing in the source says %q of %q", part, q)
		}
	}
}

// So is every text in the table of pods that do not start, and the other page has more of
// it.
func TestSymptoms(t *testing.T) {
	page, err := os.ReadFile("kubernetes.md")
	require.NoError(t, err)
	more, err := os.ReadFile("troubleshooting.md")
	require.NoError(t, err)
	_, table, _ := strings.Cut(string(page), "<!-- symptoms -->")
	table, _, found := strings.Cut(table, "<!-- end of symptoms -->")
	require.True(t, found)
	var quotes []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(.*?)` \\|").FindAllStringSubmatch(table, -1) {
		quotes = append(quotes, m[1])
		require.True(t, strings.Contains(string(more), "\n### `"+m[1]+"`\n"), "troubleshooting.md has no %q", m[1])
	}
	require.Greater(t, len(quotes), 10)
	requireSaid(t, source(t), quotes)
}

// Commands in the pages have the flags that they are shown with.
func TestCommands(t *testing.T) {
	shim := filepath.Join(t.TempDir(), "containerd-shim-wasmtime-v1")
	out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", shim, "../engines/wazero").CombinedOutput()
	require.NoError(t, err, "%s", out)
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	line := regexp.MustCompile("containerd-shim-wasmtime-v1 ((?:[a-z]+ ?){1,2})((?:--?[a-z]|[^\n`|>#])*)")
	help := map[string]string{}
	commands := 0
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			command := strings.Fields(m[1])
			if command[0] != "image" && command[0] != "cache" {
				command = command[:1]
			}
			name := strings.Join(command, " ")
			if _, known := help[name]; !known {
				out, err := exec.Command(shim, append(command, "--help")...).CombinedOutput()
				require.NoError(t, err, "%s in %s: %s", m[0], page, out)
				help[name] = string(out)
			}
			for _, flag := range regexp.MustCompile(`(?:^| )(--?[a-z][a-z-]*)`).FindAllStringSubmatch(m[2], -1) {
				require.Regexp(t, `(?m)^ .*`+regexp.QuoteMeta(flag[1])+`\b`, help[name], "%s in %s", m[0], page)
			}
			commands++
		}
	}
	require.Greater(t, commands, 8)
}

// The overlay that the page shows is one of deploy/.
func TestOverlay(t *testing.T) {
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "libwasmshim/kubernetes-*/bin/kubectl"))
	require.NoError(t, err)
	if len(found) == 0 {
		t.Skip("needs kubectl: scripts/deps.sh k8s")
	}
	blocks := codeBlocks(t, "kubernetes.md", "yaml")
	require.Len(t, blocks, 1)
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(dir, "libwasmshim/deploy"), os.DirFS("../deploy")))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "own"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "own/kustomization.yaml"), []byte(blocks[0]), 0o644))
	out, err := exec.Command(found[0], "kustomize", filepath.Join(dir, "own")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, want := range []string{"image: registry.example.com/libwasmshim/wasmtime:1.0\n", "- --address=/run/k3s/containerd/containerd.sock\n", "kind: RuntimeClass\n"} {
		require.Contains(t, string(out), want)
	}
}

// Every test that the threat model names is there.
func TestThreatModelTests(t *testing.T) {
	page, err := os.ReadFile("threat-model.md")
	require.NoError(t, err)
	var tests strings.Builder
	for _, dir := range []string{"../shim", "../cabi", "../test"} {
		require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			tests.Write(text)
			return err
		}))
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(names), 30)
	for _, m := range names {
		require.True(t, strings.Contains(tests.String(), "func "+m[1]+"("), "%s is no test", m[1])
	}
	// No edge without one.
	for _, row := range regexp.MustCompile(`(?m)^\| ([0-9]+) \|.*$`).FindAllString(string(page), -1) {
		require.Contains(t, row, "`Test")
	}
	for n := range 13 {
		require.Contains(t, string(page), fmt.Sprintf("\n| %d | ", n+1))
		require.Contains(t, string(page), fmt.Sprintf("(%d)", n+1))
	}
}

// Every name of the C column is in the header, every one of the Go column in
// package shim.
func TestArchitectureNames(t *testing.T) {
	page, err := os.ReadFile("architecture.md")
	require.NoError(t, err)
	header, err := os.ReadFile("../include/wasm_shim.h")
	require.NoError(t, err)
	code := source(t)
	rows := 0
	for line := range strings.Lines(string(page)) {
		columns := strings.Split(line, "|")
		if len(columns) != 5 || !strings.Contains(columns[1], "`") && strings.TrimSpace(columns[1]) != "none" {
			continue
		}
		rows++
		for _, m := range regexp.MustCompile("`([A-Za-z_.]+)[*`]").FindAllStringSubmatch(columns[2], -1) {
			for name := range strings.SplitSeq(m[1], ".") {
				require.True(t, regexp.MustCompile(`\b`+name+`\b`).MatchString(code), "%s in %s", name, line)
			}
		}
		for _, m := range regexp.MustCompile("`([a-z_]+)[*`]").FindAllStringSubmatch(columns[3], -1) {
			require.True(t, strings.Contains(string(header), m[1]), "%s in %s", m[1], line)
		}
	}
	require.Greater(t, rows, 15)
}

// codeBlocks are a page's blocks of one language.
func codeBlocks(t *testing.T, file, language string) (blocks []string) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// What README.md shows of an engine is in that engine.
func TestReadmeShowsTheEngine(t *testing.T) {
	engine, err := os.ReadFile("../examples/c-engine/engine.c")
	require.NoError(t, err)
	blocks := codeBlocks(t, "../README.md", "c")
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		require.Contains(t, string(engine), block)
	}
	lines := strings.Count(string(engine), "\n")
	require.Less(t, lines, 150)
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	require.Contains(t, string(readme), fmt.Sprintf("one C file of %d lines", lines))
	require.LessOrEqual(t, strings.Count(string(readme), "\n"), 120)
}

// The engine in the guide compiles.
func TestGuidesEngineCompiles(t *testing.T) {
	blocks := codeBlocks(t, "engine-authors.md", "c")
	require.Len(t, blocks, 1)
	cmd := exec.Command("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-I../include", "-c", "-x", "c", "-o", os.DevNull, "-")
	cmd.Stdin = strings.NewReader(blocks[0])
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// The pages' links to files lead somewhere.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	more, err := filepath.Glob("../examples/*/*.md")
	require.NoError(t, err)
	for _, page := range append(append(pages, more...), "../README.md", "../CONTRIBUTING.md") {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`).FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(m[1], "://") {
				_, err := os.Stat(filepath.Join(filepath.Dir(page), m[1]))
				require.NoError(t, err, "%s links to %s", page, m[1])
			}
		}
	}
}
