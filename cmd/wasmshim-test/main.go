// SPDX-License-Identifier: Apache-2.0

// Wasmshim-test finds out what an engine can do, in real containers.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/test/kit"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := &cli.App{
		Name:      "wasmshim-test",
		Usage:     "find out what a shim's engine can do",
		UsageText: "wasmshim-test [--markdown] SHIM...",
		Description: `SHIM is the path of a binary containerd-shim-NAME-v1. Small guests run on it in
real containers; no containerd is needed, but root is. The exit status is 1 if
something is wrong; what an engine says that it does not do is not.`,
		HideHelpCommand: true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "markdown", Usage: "print one table of all engines"},
		},
		Action: func(c *cli.Context) error { return run(ctx, c.Args().Slice(), c.Bool("markdown")) },
	}
	if err := app.Run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "wasmshim-test:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, binaries []string, markdown bool) error {
	if len(binaries) == 0 {
		return cli.Exit("name the SHIM to test, a binary containerd-shim-NAME-v1; see --help", 2)
	}
	var reports []kit.Report
	failed := 0
	for _, binary := range binaries {
		each := func(r kit.Result) {
			switch {
			case !markdown:
				fmt.Println(line(r))
			case r.State == kit.Failed:
				fmt.Fprintf(os.Stderr, "%s: %s\n", binary, line(r))
			}
		}
		report, err := kit.Run(ctx, binary, each)
		if err != nil {
			return err
		}
		if report.Failed() {
			failed++
		}
		reports = append(reports, report)
	}
	if markdown {
		if err := kit.Markdown(os.Stdout, reports); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d engines failed", failed, len(binaries))
	}
	return nil
}

func line(r kit.Result) string {
	text := fmt.Sprintf("%-30s %s", r.Name, r.State)
	if r.Why != "" {
		text += ": " + r.Why
	}
	return text
}
