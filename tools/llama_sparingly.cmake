# Read by llama.cpp's build (CMAKE_PROJECT_llama.cpp_INCLUDE) wherever we build it: spends no time of the compiler on what no
# token waits for. ggml, libllama and sampling keep -O3, but the 150 small sources of libllama's models are compiled by
# twenties, since their headers cost most; arguments, templates, HTTP, images and the server's own code are compiled without
# optimization. So the speed of a llama-server that is built so says nothing.
function(compile_sparingly)
    set(common "${PROJECT_SOURCE_DIR}/common")
    set(mtmd "${PROJECT_SOURCE_DIR}/tools/mtmd")
    set(apart "${common}/json.cpp" "${common}/jinja/value.cpp") # what they name clashes with the others
    set(quick "${common}/common.cpp" "${common}/sampling.cpp")
    if(TARGET llama-common)
        set_source_files_properties(${apart} TARGET_DIRECTORY llama-common PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
        set_source_files_properties(${quick} TARGET_DIRECTORY llama-common PROPERTIES COMPILE_OPTIONS -O3)
    endif()
    if(TARGET mtmd)
        # These refuse to be compiled with the internal headers of the others.
        set_source_files_properties("${mtmd}/mtmd-helper.cpp" "${mtmd}/mtmd-helper-gen.cpp" TARGET_DIRECTORY mtmd
            PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    endif()
    if(TARGET llama)
        get_target_property(others llama SOURCES)
        list(FILTER others EXCLUDE REGEX "models/")
        set_source_files_properties(${others} TARGET_DIRECTORY llama PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
        set_target_properties(llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 20)
    endif()
    foreach(target llama-common cpp-httplib mtmd server-context)
        if(TARGET ${target})
            target_compile_options(${target} PRIVATE -O0)
            set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
        endif()
    endforeach()
    if(TARGET llama-server-impl)
        target_compile_options(llama-server-impl PRIVATE -O0)
    endif()
endfunction()
cmake_language(DEFER CALL compile_sparingly)
