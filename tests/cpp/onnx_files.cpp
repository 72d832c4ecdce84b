// The files that each ONNX model names, whose path comes as a line of stdin: their names in hex on a line, or
// "refused".
#include "onnx_files.h"

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "error.h"

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    std::ifstream file(path, std::ios::binary);
    const std::string model{std::istreambuf_iterator<char>(file), {}};
    try {
      for (const std::string &name : dashdeploy::detail::external_files(model, "m")) {
        std::cout << "x";
        for (const unsigned char byte : name)
          std::cout << "0123456789abcdef"[byte >> 4] << "0123456789abcdef"[byte & 15];
        std::cout << " ";
      }
    } catch (const dashdeploy::detail::Failure &) {
      std::cout << "refused";
    }
    std::cout << "\n";
  }
}
