buildscript {
    dependencies {
        // The Android plugin brings an older Kotlin of its own.
        classpath(libs.kotlin.gradle.plugin)
    }
}

plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
}
