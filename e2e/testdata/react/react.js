export const { createElement, useEffect, useRef, useState } = globalThis.React;
