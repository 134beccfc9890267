#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
echo ready
exec sleep 1000
