// How a library's functions are made visible to those who load it.

#pragma once

#if defined(_WIN32)
#define JAXBOX_EXPORT extern "C" __declspec(dllexport)
#else
#define JAXBOX_EXPORT extern "C"
#endif
